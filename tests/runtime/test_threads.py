"""CPU kernels on one to eight threads, with and without busy processes: the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
import pytest

from janus_edge.bench.programs.busy import neighbours
from tests.runtime.cpu_models import Made, needs_library

PROMPT, STEPS = 40, 12


def _states(made: Made, num_threads: int) -> np.ndarray:
    """Hidden states (S, R, D) of a prompt's ends and of the steps behind it."""
    decoder = made.decoder(2, num_threads)
    found = [decoder.prefill(made.embeds(2, PROMPT), np.array([PROMPT, PROMPT - 7])).copy()]
    for step in range(STEPS):
        found.append(decoder.step(made.embeds(2, 1, start=step)[:, 0]).copy())
    return np.stack(found)


@needs_library
@pytest.mark.parametrize("num_busy", [0, 2])
def test_threads_and_busy_processes_change_nothing(made: Made, num_busy: int) -> None:
    expected = _states(made, 1)
    with neighbours(num_busy):
        for num_threads in (2, 3, 5, 8):
            for _ in range(3):  # each time other threads do other pieces
                assert np.array_equal(_states(made, num_threads), expected), num_threads


def _in_child(work: Callable[[], bool]) -> int:
    """Return the exit code of a copy of this process in which the work is done."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_library
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12: a fork beside threads
def test_a_forked_process_goes_on_alone(made: Made) -> None:
    """It has no workers, and waits for none."""
    decoder, other = made.decoder(1, 3), made.decoder(1, 1)
    for each in (decoder, other):
        each.prefill(made.embeds(1, PROMPT), np.array([PROMPT]))
    embeds = made.embeds(1, 1)[:, 0]
    expected = other.step(embeds).copy()

    def work() -> bool:
        signal.alarm(60)
        is_right = np.array_equal(decoder.step(embeds), expected)
        pool = decoder._engine._pool  # type: ignore[attr-defined]
        pool.__del__()  # it frees its memory, and waits for nobody
        pool.address = None
        return is_right

    assert _in_child(work) == 0
    assert np.array_equal(decoder.step(embeds), expected)
