"""TensorRT or TensorRT-RTX, whichever is installed: one API in two modules."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = ("tensorrt_rtx", "tensorrt")


def find_library(name: str | None = None) -> Any:
    """The module of this name; by default the one that is installed, TensorRT-RTX's first. None:
    there is none."""
    names = MODULES if name is None else (name,)
    return next((found for each in names if (found := import_library(each))), None)


def import_library(name: str) -> Any:
    """One of ``MODULES``, or None where it is not installed or lacks its libraries."""
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError):  # its wheel opens libraries as it is imported
        return None


def make_logger(trt: Any) -> Any:
    """A logger of TensorRT's that prints nothing and keeps its errors in ``errors``, one line
    each."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()
