"""Images are decoded beside the passes that follow, and are what they are without that."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime import engines as engines_module
from janus_edge.runtime.backends.cpu_library import library
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.decoding import Decoding, Pixels
from janus_edge.runtime.engines import Engines

CODES = np.random.default_rng(0).integers(0, 128, (4, 64))


def engines_of(threads: int) -> Engines:
    return Engines(open_bundle("tiny-janus"), threads)


def finished(decoding: Decoding[str], *, passes_follow: bool = False) -> dict[str, bytes]:
    """All that are left, by their keys."""
    found = {}
    while decoding:
        made = decoding.take(passes_follow=passes_follow)
        if made is not None:
            assert isinstance(made[1], Pixels)
            found[made[0]] = made[1].image.tobytes()
    assert not decoding.is_beside
    return found


class Slow:
    """An image decoder that waits until it may go on."""

    def __init__(self, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
        assert engines.beside is not None
        self.went, self.threads = threading.Event(), set[str]()
        engine = engines.beside._engines["image_decoder"]
        run = engine.run

        def slow(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            self.threads.add(threading.current_thread().name)
            assert self.went.wait(60)
            return run(inputs)

        monkeypatch.setattr(engine, "run", slow)


def test_nothing_is_waited_for_while_passes_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = engines_of(2)
    expected = {str(i): alone(codes) for i, codes in enumerate(CODES)}
    slow, decoding = Slow(engines, monkeypatch), Decoding[str](engines)
    assert not decoding.is_beside and decoding.take(passes_follow=True) is None
    for i, codes_N in enumerate(CODES):
        decoding.add(str(i), codes_N)
        assert decoding.take(passes_follow=True) is None
        assert decoding.is_beside and len(decoding) == i + 1
    first = decoding.take(passes_follow=False)  # where none follow, the others need not wait
    assert first is not None and first[0] == "1" and len(decoding) == 3
    slow.went.set()
    assert finished(decoding) | {"1": expected["1"]} == expected
    assert slow.threads == {"janus-edge decoding_0"}


def test_the_last_one_is_waited_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may come meanwhile."""
    engines = engines_of(2)
    slow, decoding = Slow(engines, monkeypatch), Decoding[str](engines)
    decoding.add("a", CODES[0])
    for passes_follow in (True, False, False):
        assert decoding.take(passes_follow=passes_follow) is None and len(decoding) == 1
    slow.went.set()
    assert list(finished(decoding)) == ["a"]


def alone(codes_N: np.ndarray) -> bytes:
    decoding: Decoding[int] = Decoding(engines_of(1))
    decoding.add(0, codes_N)
    made = decoding.take(passes_follow=True)  # with one thread it is decoded now
    assert made is not None and isinstance(made[1], Pixels)
    return made[1].image.tobytes()


@pytest.mark.parametrize("dropped", ["0", "1"])
def test_one_that_is_dropped(dropped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop one that waits, or that is being decoded; the next ones wait for the thread."""
    engines = engines_of(2)
    slow, decoding = Slow(engines, monkeypatch), Decoding[str](engines)
    keys = ["0", "1", "2"]
    for key, codes_N in zip(keys, CODES, strict=False):
        decoding.add(key, codes_N)
    assert decoding.take(passes_follow=True) is None
    decoding.drop(keys[int(dropped)])
    slow.went.set()
    assert list(finished(decoding, passes_follow=True)) == [key for key in keys if key != dropped]


def test_an_error_belongs_to_its_image() -> None:
    decoding = Decoding[str](engines_of(2))
    decoding.add("bad", np.full(64, 10**6))
    decoding.add("good", CODES[0])
    decoding.add("bad and dropped", np.full(64, 10**6))
    found: dict[str, Any] = {}
    while decoding:
        made = decoding.take(passes_follow=True)
        if made is not None:
            found |= [made]
            decoding.drop("bad and dropped")
    assert isinstance(found.pop("bad"), Exception)
    assert isinstance(found.pop("good"), Pixels) and not found


def test_what_fails_beside_passes_is_decoded_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread, as where memory is short, or as it starts."""
    expected = alone(CODES[0])
    for kind, error in ((ThreadPoolExecutor, RuntimeError), (Engines, MemoryError)):
        engines, decoding = engines_of(2), None
        assert engines.beside is not None
        with monkeypatch.context() as patch:
            if kind is Engines:
                patch.setattr(engines.beside._engines, "_load", _raising(error))
            else:
                patch.setattr(kind, "submit", _raising(error))
            decoding = Decoding[str](engines)
            decoding.add("a", CODES[0])
            assert finished(decoding, passes_follow=True) == {"a": expected}
        assert engines.beside is None


def _raising(error: type[Exception]) -> Callable[..., None]:
    def raises(*given: object, **more: object) -> None:
        raise error

    return raises


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12: a fork beside threads
def test_a_forked_process_has_a_thread_of_its_own(int4_dir: Path) -> None:
    engines = Engines(open_bundle(int4_dir), 2)
    decoding = Decoding[str](engines)
    decoding.add("a", CODES[0])
    expected = finished(decoding, passes_follow=True)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        decoding.add("a", CODES[0])
        os._exit(0 if finished(decoding, passes_follow=True) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_where_nothing_runs_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines_of(1).beside is None
    bundle = open_bundle("tiny-janus")
    needed = bundle.num_bytes("image_decoder")
    monkeypatch.setattr(engines_module, "free_memory", lambda: needed)
    assert Engines(bundle, 2).beside is None
    monkeypatch.setattr(engines_module, "free_memory", lambda: needed + 1)
    assert Engines(bundle, 2).beside is not None


@pytest.mark.skipif(library() is None, reason="this processor has not the instructions")
def test_it_lends_threads(monkeypatch: pytest.MonkeyPatch, int4_dir: Path) -> None:
    """Half of them while an image is decoded, and until that is seen to be over."""
    engines, used = Engines(open_bundle(int4_dir), 5), list[int]()
    assert engines.beside is not None and engines.beside.num_threads == 2
    monkeypatch.setattr(engines._shared.pool, "use", used.append)
    decoding = Decoding[str](engines)
    for key in "ab":
        decoding.add(key, CODES[0])
    finished(decoding, passes_follow=True)
    assert used == [3, 5, 3, 5]
    for end in (lambda: decoding.drop("c"), decoding.stop):
        decoding.add("c", CODES[0])
        while not decoding.is_beside:
            decoding.take(passes_follow=True)
        end()
        assert used.pop() == 5
