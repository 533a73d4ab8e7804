"""Approximate drawing: the order of codes, what a code can see, and where it is exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.cached_decoder import CachedDecoder
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Finished, Image
from janus_edge.runtime.overlap import steps_of
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import FAST_GUIDANCE, Session


@pytest.mark.parametrize(("grid", "window"), [(1, 1), (2, 1), (4, 2), (8, 3), (8, 8), (24, 12)])
def test_each_code_is_drawn_and_read_once(grid: int, window: int) -> None:
    drawn, read = [0], []
    for step in steps_of(grid, window):
        assert set(step.read_T) <= set(drawn)  # nothing is read before it is drawn
        read += step.read_T[: step.kept].tolist()
        follows = step.drawn_T[step.drawn_T >= 0]
        assert (step.at_T[step.drawn_T >= 0] == follows - 1).all()
        for code in follows:  # a row begins once the one above has as many codes as the window
            above = [each for each in drawn if each // grid == code // grid - 1]
            assert code % grid or len(above) >= window
        drawn += follows.tolist()
        assert len(step.read_T) - step.kept in (0, 1)
    assert sorted(drawn) == list(range(grid * grid))
    assert sorted(read) == list(range(grid * grid - 1))  # nobody needs the last one


def test_a_window_of_a_row_is_raster_order() -> None:
    for number, step in enumerate(steps_of(6, 6)):
        assert (step.read_T.tolist(), step.at_T.tolist()) == ([number], [number])
        assert (step.drawn_T.tolist(), step.kept) == ([number + 1], 1)


def test_how_many_passes() -> None:
    for window in (1, 4, 12, 24):
        assert len(steps_of(24, window)) == 23 * window + 23


@pytest.fixture(scope="module", params=["int4", "fp32"])
def small(request: pytest.FixtureRequest, tiny_janus: Callable[[str], Path]) -> Session:
    """The small Janus as our kernels run it, and as a graph."""
    return Session(open_bundle(tiny_janus(request.param)), num_threads=1)


def _drawn(session: Session, **settings: Any) -> tuple[list[Image], Finished]:
    *events, finished = session.generate_image(ImageRequest(prompt="two stars", **settings))
    assert isinstance(finished, Finished)
    return [each for each in events if isinstance(each, Image)], finished


def _codes(session: Session, **settings: Any) -> np.ndarray:
    return np.array([each.codes for each in _drawn(session, **settings)[0]])


@pytest.mark.parametrize("num_images", [1, 3])
def test_the_window_of_a_row_draws_the_exact_image(small: Session, num_images: int) -> None:
    exact = _codes(small, seed=2, num_images=num_images, parallel=1)
    assert np.array_equal(_codes(small, seed=2, num_images=num_images, window=8), exact)


def test_slots_that_were_not_drawn_are_not_read(
    small: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poison what no kept position has written: not a number, or the largest one."""
    look_ahead: Callable[..., np.ndarray] = CachedDecoder.look_ahead
    poisoned = 0

    def after_poison(self: CachedDecoder, *given: Any) -> np.ndarray:
        nonlocal poisoned
        for each in self._cache.past.values():
            for row, kept in enumerate(self._kept_R):
                each[row, :, kept:] = np.nan if each.dtype == np.float32 else 127
                poisoned += 1
        return look_ahead(self, *given)

    clean = _codes(small, seed=4, window=3, num_images=2)
    monkeypatch.setattr(CachedDecoder, "look_ahead", after_poison)
    assert np.array_equal(_codes(small, seed=4, window=3, num_images=2), clean)
    assert poisoned > 0


def test_guidance_ends(small: Session) -> None:
    exact = _codes(small, seed=1, guidance_scale=5.0, parallel=1)
    assert np.array_equal(_codes(small, seed=1, guidance_scale=5.0, guidance_end=1.0), exact)
    never = _codes(small, seed=1, guidance_scale=1.0, parallel=1)
    assert np.array_equal(_codes(small, seed=1, guidance_scale=5.0, guidance_end=0.0), never)
    half = _codes(small, seed=1, guidance_scale=5.0, guidance_end=0.5, parallel=1)
    assert np.array_equal(half[:, :32], exact[:, :32]) and not np.array_equal(half, exact)
    for width in (3, 8, None):
        more: dict[str, Any] = {"guidance_scale": 5.0, "guidance_end": 0.5, "parallel": width}
        assert np.array_equal(_codes(small, seed=1, **more), half)


def test_what_is_approximate_says_so(small: Session) -> None:
    for settings, approximate in (
        ({}, False),
        ({"parallel": 4}, False),
        ({"window": 0}, False),
        ({"window": 5}, True),
        ({"fast": True}, True),
        ({"guidance_end": 0.5}, True),
        ({"guidance_end": 0.5, "guidance_scale": 1.0}, False),
        ({"fast": True, "guidance_end": 1.0}, False),
    ):
        images, _ = _drawn(small, **settings)
        assert [each.approximate for each in images] == [approximate], settings
    fast = small.image_settings(ImageRequest(prompt="x", fast=True))
    assert getattr(fast, "guidance_end", None) == FAST_GUIDANCE


def test_wrong_windows(small: Session) -> None:
    with pytest.raises(OptionError, match="window is 9; a row of this bundle has 8 codes"):
        small.generate_image(ImageRequest(prompt="x", window=9))
    with pytest.raises(OptionError, match="window is -1"):
        ImageRequest(prompt="x", window=-1)
    flow = Session(open_bundle("tiny-flow"), num_threads=1)
    for settings in ({"window": 3}, {"fast": True}):
        with pytest.raises(OptionError, match="means nothing to tiny-flow"):
            flow.generate_image(ImageRequest(prompt="x", **settings))
