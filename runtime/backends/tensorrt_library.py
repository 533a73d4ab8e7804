"""Import TensorRT or TensorRT-RTX, whichever is installed: one API in two modules."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = ("tensorrt_rtx", "tensorrt")


def find_library(name: str | None = None) -> Any:
    """Return a TensorRT module, None if it is not installed.

    Args:
        name: A name of ``MODULES``; by default the installed one, TensorRT-RTX first.
    """
    names = MODULES if name is None else (name,)
    return next((found for each in names if (found := import_library(each))), None)


def import_library(name: str) -> Any:
    """Return one of ``MODULES``, None if it is not installed or lacks its libraries."""
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError):  # importing its wheel opens libraries
        return None


def make_logger(trt: Any) -> Any:
    """Return a TensorRT logger that prints nothing; its ``errors`` holds one line per error."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()
