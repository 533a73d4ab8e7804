"""Whatever is given to the public functions: it works, or it is one line of a JanusEdgeError."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

import janus_edge
from janus_edge import AskRequest, ImageRequest, Session, Turn
from janus_edge.runtime.errors import ImageError, JanusEdgeError, OptionError

RED = PilImage.new("RGB", (5, 4), "red")
DRAWN = janus_edge.Image(index=0, pixels=np.full((4, 5, 3), 7, np.uint8), seed=0, elapsed_ms=1.0)


@pytest.fixture(scope="module")
def session() -> Session:
    """On the bundle that ships."""
    return Session(janus_edge.open_bundle(), num_threads=1)


class Odd:
    """A class whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError


ANYTHING: tuple[Any, ...] = (
    *(None, True, 0, -1, 3, 2.0, 2**70, 10**400, math.nan, math.inf, 1j, "", "3", "a\0b", "\ud800"),
    *(b"x", (), (1,), [], [None], ["a", 1], {}, {"message": "a"}, set(), object(), Odd(), Odd, len),
    *(np.int64(3), np.uint8(3), np.float32(0.5), np.float64("nan"), np.bool_(True), np.str_("x")),
    *(np.zeros(()), np.zeros(3), np.zeros((0, 0), np.uint8), np.zeros((4, 4, 2), np.uint8)),
    *(np.zeros((2, 2, 3)), np.zeros((1, 0, 3), np.uint8), np.array(["a"]), np.array([None])),
    *(
        Path("none"),
        Path(),
        RED,
        PilImage.new("F", (2, 2)),
        PilImage.new("I", (2, 2)),
        PilImage.new("RGB", (0, 0)),
        DRAWN,
    ),
    *(Turn(message="a"), ImageRequest(prompt="a"), AskRequest(question="a"), ValueError("x")),
)


def survives(call: Callable[[], Any]) -> bool:
    """Whether it works; what it raises is ours, and one line."""
    try:
        call()
    except JanusEdgeError as error:
        assert str(error) and "\n" not in str(error)
        return False
    return True


FIELDS = [
    (kind, given, name)
    for kind, given in (
        (ImageRequest, {"prompt": "a"}),
        (AskRequest, {"question": "a"}),
        (Turn, {"message": "a"}),
    )
    for name in [*kind.__dataclass_fields__, "no_such_field"]
]


@pytest.mark.parametrize(("kind", "given", "name"), FIELDS)
def test_any_field(kind: type, given: dict[str, Any], name: str, session: Session) -> None:
    works = 0
    for value in ANYTHING:
        if survives(lambda value=value: kind(**{**given, name: value})):
            works += 1
            if kind is ImageRequest:  # and if it is taken, it can be used
                survives(lambda value=value: session.generate_image(kind(**{**given, name: value})))
            if kind is AskRequest:
                survives(lambda value=value: session.ask(kind(**{**given, name: value})))
    assert works < len(ANYTHING) and (works > 0 or name == "no_such_field")


def calls(session: Session) -> dict[str, Callable[..., Any]]:
    """The public functions that take arguments, but for requests, errors and events."""
    bundle = session.bundle
    return {
        "load_image": janus_edge.load_image,
        "open_bundle": janus_edge.open_bundle,
        "open_bundle.check_all": lambda value: janus_edge.open_bundle(check_all=value),
        "Session": janus_edge.Session,
        "Session.num_threads": lambda value: janus_edge.Session(bundle, num_threads=value),
        "Session.device": lambda value: janus_edge.Session(bundle, device=value),
        "generate_image": session.generate_image,
        "image_settings": session.image_settings,
        "ask": session.ask,
        "path": bundle.path,
        "num_bytes": bundle.num_bytes,
    }


@pytest.mark.parametrize("index", range(11))
def test_any_argument(index: int, session: Session) -> None:
    name, call = list(calls(session).items())[index]
    works = [value for value in ANYTHING if survives(lambda value=value: call(value))]
    assert len(works) < len(ANYTHING), name
    if not name.endswith((".check_all", ".num_threads", ".device", "path", "num_bytes")):
        survives(call)
        assert not survives(lambda: call(*ANYTHING))
        assert not survives(lambda: call(no_such_argument=1))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ImageRequest(prompt=None), "prompt is None (NoneType); give a text"),
        (lambda: ImageRequest(prompt="a", seed="3"), "seed is '3' (str); give a whole number"),
        (
            lambda: ImageRequest(prompt="a", num_images=2.0),
            "num_images is 2.0 (float); give a whole",
        ),
        (lambda: ImageRequest(prompt="a", num_images=True), "num_images is True (bool)"),
        (lambda: ImageRequest(prompt="a", reference=1), "reference is 1 (int); give True or False"),
        (lambda: ImageRequest(promt="a", prompt="a"), 'takes no "promt"'),
        (lambda: ImageRequest(prompt="a", top_k=2.5), "top_k is 2.5 (float); give a whole number"),
        (lambda: ImageRequest(), "ImageRequest has no prompt"),
        (
            lambda: ImageRequest("a star"),
            "ImageRequest takes 'a star' (str) by its name",
        ),
        (lambda: Turn("a", "b"), "Turn takes 'a' (str) by its name only; write"),
        (lambda: janus_edge.Session("tiny-janus"), "give a Bundle, as open_bundle returns"),
        (lambda: janus_edge.open_bundle(3), "model is 3 (int); give a path or a name"),
        (lambda: AskRequest(question="a", history=[3]), "history[0] is 3 (int); give an instance"),
        (lambda: AskRequest(question="a", images=[RED, 3]), "images[1] is 3 (int); give a path, a"),
        (lambda: Turn(message="a", num_images=-1), "num_images is -1; give a value from 0"),
    ],
)
def test_what_the_line_says(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(OptionError) as caught:
        call()
    assert says in str(caught.value)


def test_numpys_numbers_are_taken() -> None:
    request = ImageRequest(
        prompt=["a", "b"], seed=np.uint64(2**40), temperature=np.float32(0.5), top_k=np.int8(3)
    )
    assert request.prompts == ("a", "b") and request.seed == 2**40 and request.temperature == 0.5
    assert type(request.seed) is int and type(request.temperature) is float


def test_what_is_an_image(tmp_path: Path) -> None:
    """Every kind comes out as the same RGB image, and is a copy."""
    RED.save(tmp_path / "a.png")
    pixels = np.asarray(RED)
    clear = np.dstack([pixels, np.full((4, 5), 255, np.uint8)])
    event = janus_edge.Image(index=0, pixels=pixels, seed=0, elapsed_ms=0.0)
    given = (str(tmp_path / "a.png"), tmp_path / "a.png", RED, event, pixels, clear)
    for images in (given, list(given)):
        found = AskRequest(question="a", images=images).images
        assert len(found) == 6 and all(np.array_equal(np.asarray(each), pixels) for each in found)
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    (found,), (also,) = (
        AskRequest(question="a", images=each).images for each in (grey, grey[..., None])
    )
    grey[:] = 99
    for each in (found, also):
        assert each.mode == "RGB" and np.asarray(each)[1, 2].tolist() == [5, 5, 5]
    assert AskRequest(question="a", images=pixels[::-1, ::2]).images[0].size == (3, 4)


@pytest.mark.parametrize("size", [(0, 0), (0, 3), (3, 0)])
def test_no_pixels(size: tuple[int, int]) -> None:
    for given in (PilImage.new("RGB", size), np.zeros((*size, 3), np.uint8)):
        with pytest.raises(ImageError, match="give a picture of at least 1x1"):
            AskRequest(question="a", images=(given,))


def test_a_pil_image_of_a_closed_or_cut_file(tmp_path: Path) -> None:
    PilImage.effect_noise((64, 64), 90).save(tmp_path / "a.png")
    closed = PilImage.open(tmp_path / "a.png")
    closed.close()
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(raw[: len(raw) // 2])
    with PilImage.open(tmp_path / "b.png") as cut:
        for given in (closed, cut):
            with pytest.raises(ImageError, match="a PIL image that cannot be read"):
                AskRequest(question="a", images=given)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "\ufffd\ufffd"),
        ("caf\udce9!", "caf\ufffd!"),
        ("\udce2\udc82", "\ufffd"),  # of three bytes two: one maximal subpart
        ("\udced\udca0\udc80", "\ufffd" * 3),
        ("日本 é", "日本 é"),
    ],
)
def test_text_that_is_no_unicode(given: str, read: str, session: Session) -> None:
    """Everywhere a text goes: what is drawn, what is saved, what is asked."""
    assert ImageRequest(prompt=given).prompts == (read,)
    assert AskRequest(question=given).question == read
    assert Turn(message=given, answer=given).answer == read
    encoder = session.bundle.encoder
    assert encoder.generation(given).tolist() == encoder.generation(read).tolist()
    list(session.generate_image(ImageRequest(prompt=given)))
