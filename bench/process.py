"""Time workloads in a process of their own, so that its peak memory is theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from janus_edge.diagnostics.machine import peak_memory_bytes
from janus_edge.runtime.errors import JanusEdgeError
from janus_edge.runtime.events import Pass
from janus_edge.runtime.stop import ignored_by_children


@dataclass(frozen=True, kw_only=True)
class Run:
    """Times of one request.

    Attributes:
        total_ms: Time of the whole request.
        step_ends_ms: Time from the start to the end of each code, step or token.
        component_ms: Time in each component.
        passes: The passes that drew codes, if there were any.
    """

    total_ms: float
    step_ends_ms: tuple[float, ...]
    component_ms: dict[str, float] = field(default_factory=dict)
    passes: tuple[Pass, ...] = ()

    @property
    def gaps_ms(self) -> np.ndarray:
        """The time from one step to the next; a pass is a step, however many codes it adds."""
        if self.passes:
            return np.array([each.took_ms for each in self.passes])
        return np.diff(self.step_ends_ms)


Workloads = dict[str, Callable[[], Run]]  # by name


class Worker:
    """A process that has opened something; each call waits for its answer.

    A ``JanusEdgeError`` of the process is raised in the caller.
    """

    def __init__(
        self, open_workloads: Callable[..., tuple[Any, Workloads]], *arguments: Any
    ) -> None:
        """Start the process and call ``open_workloads`` in it.

        Args:
            open_workloads: Returns what was opened, and the workloads by name.
            *arguments: Its arguments.
        """
        context = get_context("spawn")  # a fork would count this process's memory
        self._pipe, theirs = context.Pipe()
        inside = (theirs, open_workloads, arguments)
        self._process = context.Process(target=_serve, args=inside, daemon=True)
        with ignored_by_children():
            self._process.start()
        theirs.close()
        self.opened = self._answer()

    def run(self, workload: str) -> Run:
        """Run one request of a workload and return its times."""
        self._pipe.send(workload)
        run: Run = self._answer()
        return run

    def close(self) -> int:
        """End the process and return its peak memory in bytes."""
        self._pipe.send(None)
        peak: int = self._answer()
        self._process.join()
        return peak

    def _answer(self) -> Any:
        """Wait for the process's answer and return it, or raise its error."""
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise JanusEdgeError(
                f"the process that measures ended with code {self._process.exitcode}; is there "
                "memory enough?"
            ) from None
        if isinstance(answer, JanusEdgeError):
            raise answer
        return answer


def _serve(
    pipe: Connection,
    open_workloads: Callable[..., tuple[Any, Workloads]],
    arguments: tuple[Any, ...],
) -> None:
    """Run workloads as asked through the pipe: what the process of ``Worker`` does."""
    try:
        opened, workloads = open_workloads(*arguments)
        pipe.send(opened)
        while (workload := pipe.recv()) is not None:
            pipe.send(workloads[workload]())
        pipe.send(peak_memory_bytes())
    except JanusEdgeError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError):  # the caller is gone
        return
