"""Images are decoded beside the passes that follow, and are what they are without that."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from janus_edge.runtime import engines as engines_module
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.decoding import Decoding
from janus_edge.runtime.engines import Engines

CODES = np.random.default_rng(0).integers(0, 128, (4, 64))


def engines_of(threads: int) -> Engines:
    return Engines(open_bundle("tiny-janus"), threads)


def finished(decoding: Decoding[str]) -> list[tuple[str, bytes]]:
    found = []
    while made := decoding.take(passes_follow=False):
        found.append((made[0], made[1].image.tobytes()))
    assert len(decoding) == 0 and not decoding.is_beside
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
    expected = [(str(i), alone(codes)) for i, codes in enumerate(CODES)]
    slow, decoding = Slow(engines, monkeypatch), Decoding[str](engines)
    assert not decoding.is_beside and decoding.take(passes_follow=True) is None
    for i, codes_N in enumerate(CODES):
        decoding.add(str(i), codes_N)
        assert decoding.take(passes_follow=True) is None
        assert decoding.is_beside and len(decoding) == i + 1
    slow.went.set()
    assert finished(decoding) == expected
    assert slow.threads == {"janus-edge decoding_0"}


def alone(codes_N: np.ndarray) -> bytes:
    decoding: Decoding[int] = Decoding(engines_of(1))
    decoding.add(0, codes_N)
    made = decoding.take(passes_follow=True)  # with one thread it is decoded now
    assert made is not None
    return made[1].image.tobytes()


@pytest.mark.parametrize("dropped", ["0", "1"])
def test_one_that_is_dropped(dropped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it waits or is being decoded; the next ones wait for the thread."""
    engines = engines_of(2)
    slow, decoding = Slow(engines, monkeypatch), Decoding[str](engines)
    keys = ["0", "1", "2"]
    for key, codes_N in zip(keys, CODES, strict=False):
        decoding.add(key, codes_N)
    assert decoding.take(passes_follow=True) is None
    decoding.drop(keys[int(dropped)])
    slow.went.set()
    assert [key for key, _ in finished(decoding)] == [key for key in keys if key != dropped]


def test_an_error_is_raised_where_the_image_is_taken() -> None:
    decoding = Decoding[str](engines_of(2))
    decoding.add("bad", np.full(64, 10**6))
    decoding.add("good", CODES[0])
    with pytest.raises(Exception, match=r"codes|indices|range"):
        while decoding:
            decoding.take(passes_follow=True)
    assert [key for key, _ in finished(decoding)] == ["good"]


def test_where_nothing_runs_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines_of(1).beside is None
    bundle = open_bundle("tiny-janus")
    needed = bundle.num_bytes("image_decoder")
    monkeypatch.setattr(engines_module, "free_memory", lambda: needed)
    assert Engines(bundle, 2).beside is None
    monkeypatch.setattr(engines_module, "free_memory", lambda: needed + 1)
    assert Engines(bundle, 2).beside is not None


def test_it_lends_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them while an image is decoded, and until that is seen to be over."""
    engines, used = engines_of(5), list[int]()
    monkeypatch.setattr(engines, "use", used.append)
    decoding = Decoding[str](engines)
    for key in "ab":
        decoding.add(key, CODES[0])
    while decoding:
        decoding.take(passes_follow=True)
    assert used == [3, 5, 3, 5]
    for end in (lambda: decoding.drop("c"), decoding.stop):
        decoding.add("c", CODES[0])
        decoding.take(passes_follow=True)
        end()
        assert used.pop() == 5
