"""The same random settings in Python and in C: both take them or both refuse, and draw and answer
the same."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime.errors import JanusEdgeError
from janus_edge.runtime.requests import AskRequest, ImageRequest
from tests.native import capi
from tests.native.capi import Api, ApiError
from tests.native.conftest import Reference

NUMBERS = (0.0, -0.0, 5e-324, 1e-45, 1e-38, 1e-7, 1e-6, 0.01, 0.5, 1.0, 2.0, 99.0, 100.0, 100.5)
NUMBERS += (1e38, 1e300, math.inf, -math.inf, -1e-300, -1.0)
WHOLE = (0, 1, 2, 3, 7, 1024, 1025, 10_000, 10_001, 2**31 - 1, -2)
TEXTS = (
    b"a star",
    b"",
    b" ",
    b"\xff\xfe",
    b"a <begin_of_image>",
    b"star " * 300,
    "Ü 日本 😀".encode(),
)
DRAWN: dict[str, tuple[Any, ...]] = {
    "prompt": (*TEXTS, b"a red circle", b"two", b"x"),
    "num_images": (1, 1, 1, 2, 0, -1, 1024, 1025),
    "seed": (0, 7, 2**40, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1),
    "guidance_scale": NUMBERS,
    "temperature": NUMBERS,
    "top_k": WHOLE,
    "top_p": NUMBERS,
    "parallel": (1, 2, 3, 7, 64, 65, -2),
    "window": (1, 3, 8, 9, 4096, 4097, -1),
    "num_steps": WHOLE,
    "solver": (b"euler", b"ab2", b"heun", b"rk4", b"", b"\xff"),
    "shift": NUMBERS,
    "guidance_start": NUMBERS,
    "guidance_end": NUMBERS,
}
ASKED = {name: DRAWN[name] for name in ("seed", "temperature", "top_p")}
ASKED |= {"prompt": DRAWN["prompt"], "max_tokens": (1, 2, 5, 0, -1, 2**31 - 1)}
OF_FAMILY = {
    "janus": ("temperature", "top_k", "top_p", "parallel", "window", "guidance_end"),
    "janusflow": ("num_steps", "solver", "shift", "guidance_start", "guidance_end"),
}
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))]


def chosen(rng: random.Random, names: dict[str, tuple[Any, ...]], family: str) -> dict[str, Any]:
    """A prompt and up to three settings, mostly of the family."""
    known = [name for name in names if name not in sum(OF_FAMILY.values(), ())]
    known += [name for name in OF_FAMILY[family] if name in names]
    picked = rng.sample(known if rng.random() < 0.8 else list(names), rng.randint(0, 3))
    return {name: rng.choice(names[name]) for name in dict.fromkeys(["prompt", *picked])}


def as_text(settings: dict[str, Any]) -> dict[str, Any]:
    """Bytes as a command line gives them to Python."""
    return {
        name: value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        for name, value in settings.items()
    }


def taken(api: Api, session: Any, task: int, settings: dict[str, Any]) -> bool:
    try:
        with api.job(session, task=task, **settings):
            return True
    except ApiError as error:
        assert error.status == capi.E_ARGUMENT and "\n" not in str(error), error
        return False


@pytest.mark.parametrize("seed", SEEDS)
def test_drawing(api: Api, shipped: Reference, seed: int) -> None:
    family, rng, drawn = shipped.session.bundle.manifest.family, random.Random(seed), 0
    counts = {True: 0, False: 0}
    with api.session(shipped.folder) as session:
        for _ in range(400):
            settings = chosen(rng, DRAWN, family)
            given = dict(settings)
            text = as_text(settings)
            try:
                request = ImageRequest(**text)
                shipped.session.generate_image(request)
                is_taken = True
            except JanusEdgeError:
                is_taken = False
            assert taken(api, session, capi.DRAW, given) == is_taken, settings
            counts[is_taken] += 1
            small = settings.get("num_images", 1) < 3 and settings.get("num_steps", 1) < 8
            if is_taken and small and drawn < 6:
                drawn += 1
                found, expected = api.draw(session, **given), shipped.drawn(request)
                for one, other in zip(found, expected, strict=True):
                    assert np.array_equal(one.pixels, other.pixels), settings
    assert min(counts.values()) > 50


@pytest.mark.parametrize("seed", SEEDS)
def test_asking(api: Api, shipped: Reference, seed: int) -> None:
    family, rng, asked = shipped.session.bundle.manifest.family, random.Random(seed), 0
    with api.session(shipped.folder) as session:
        for _ in range(400):
            settings = chosen(rng, ASKED, family)
            text = as_text(settings)
            text["question"] = text.pop("prompt")
            try:
                request = AskRequest(**text)
                shipped.session.ask(request)
                is_taken = True
            except JanusEdgeError:
                is_taken = False
            assert taken(api, session, capi.ASK, settings) == is_taken, settings
            if is_taken and settings.get("max_tokens", 128) < 6 and asked < 10:
                asked += 1
                said = api.ask(session, **settings).decode("utf-8", "replace")
                assert said == shipped.answer(request), settings
    assert asked == 10
