"""What a sample says: captions, turns or a text, from the forms in which data sets have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from janus_edge.runtime.json_text import parse_json

PLACEHOLDER = "<image>"  # where LLaVA's questions have the image
USERS = ("human", "user")
ASSISTANTS = ("gpt", "assistant")
NOTHING_SAID = "no caption, turns or text"
# "prompt" is what ``janus-edge batch`` calls the caption of an image that it drew.
KEYS = ("caption", "captions", "prompt", "turns", "conversations", "question", "answer", "text")
BOXES = "labelled_boxes"  # beside one of these


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    user: str
    assistant: str


@dataclass(frozen=True)
class LabelledBox:
    """A bounding box and a label for what it holds.

    Attributes:
        label: A word or two; the same for the same kind of thing.
        box: Left and top edge, width and height, px of the upright image, as it is seen. It may
            reach beyond it.
    """

    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is said of an image, or without one. The others are empty.

    Attributes:
        captions: Descriptions of the image.
        turns: A conversation, about the image if there is one.
        text: Plain text.
        boxes: What parts of the image show. They come beside captions or turns.
    """

    captions: tuple[str, ...] = ()
    turns: tuple[Exchange, ...] = ()
    text: str | None = None
    boxes: tuple[LabelledBox, ...] = ()

    @property
    def kind(self) -> str:
        """Return "conversation", "caption" or "text"."""
        return "conversation" if self.turns else "caption" if self.captions else "text"

    def document(self) -> dict[str, Any]:
        """Return it as the JSON of a shard; ``parse`` reads that back."""
        found: dict[str, Any] = {
            "captions": list(self.captions),
            "turns": [{"user": each.user, "assistant": each.assistant} for each in self.turns],
            "text": self.text,
            BOXES: [{"label": each.label, "box": list(each.box)} for each in self.boxes],
        }
        return {key: value for key, value in found.items() if value}


def load_object(raw: bytes) -> dict[str, Any]:
    """Return a JSON object; raise ValueError, with the reason, if there is none."""
    try:
        found = parse_json(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def read_content(document: bytes | None, text: bytes | None, has_image: bool) -> Content:
    """Return what a JSON and a text say: the JSON where it has a key of KEYS, else the text.

    Boxes come from the JSON in either case.

    Raises:
        ValueError: They say nothing, or not in a form that is known. The message is the reason.
    """
    found: dict[str, Any] = {}
    if document is not None:
        found = load_object(document)
        try:
            return parse(found, has_image)
        except ValueError as error:
            if text is None or str(error) != NOTHING_SAID:
                raise
    if text is None:
        raise ValueError("no .txt or .json says anything")
    return replace(parse_txt(text, has_image), boxes=_boxes(found, has_image))


def parse_txt(raw: bytes, has_image: bool) -> Content:
    """Return what a text member says: a caption with an image, plain text without.

    Raises:
        ValueError: It is empty or not UTF-8. The message is the reason.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if has_image:
        return Content(captions=(_words(text, "caption"),))
    return Content(text=_words(text, "text"))


def parse(found: Mapping[str, Any], has_image: bool) -> Content:
    """Return what an object says by the keys in KEYS, and BOXES; other keys are ignored.

    Args:
        found: The object. A key whose value is None counts as missing.
        has_image: Whether there is an image. Then ``text`` is a caption.

    Raises:
        ValueError: It says nothing, or not in a form that is known. The message is the reason.
    """
    given = {key: found[key] for key in KEYS if found.get(key) is not None}
    captions, boxes = _captions(given), _boxes(found, has_image)
    turns = _turns(given, has_image)
    if "text" in given and not captions and not turns:
        text = _words(given["text"], "text")
        return Content(captions=(text,), boxes=boxes) if has_image else Content(text=text)
    if captions and not has_image:
        raise ValueError("a caption without an image")
    if not captions and not turns:
        raise ValueError(NOTHING_SAID)
    return Content(captions=captions, turns=turns, boxes=boxes)


def _captions(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the captions, of which none may be empty."""
    found: list[Any] = []
    for key in ("caption", "captions", "prompt"):
        if key in given:
            found += given[key] if isinstance(given[key], list) else [given[key]]
            if not found:
                raise ValueError(f"empty {key}")
    return tuple(_words(each, "caption") for each in found)


def _turns(given: Mapping[str, Any], has_image: bool) -> tuple[Exchange, ...]:
    if "turns" in given:
        return _exchanges(given["turns"])
    if "conversations" in given:
        return _llava(given["conversations"], has_image)
    if "question" in given or "answer" in given:
        question, answer = (_words(given.get(key), key) for key in ("question", "answer"))
        return (Exchange(question, answer),)
    return ()


def _exchanges(turns: Any) -> tuple[Exchange, ...]:
    if not isinstance(turns, list) or not turns:
        raise ValueError("turns are no list, or empty")
    if not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("a turn that is no object with user and assistant")
    return tuple(
        Exchange(_words(turn.get("user"), "user"), _words(turn.get("assistant"), "assistant"))
        for turn in turns
    )


def _llava(said: Any, has_image: bool) -> tuple[Exchange, ...]:
    """Return LLaVA's form, {"from": "human" or "gpt", "value": ...} in turn."""
    if not isinstance(said, list) or not said or len(said) % 2:
        raise ValueError("conversations are no list of questions and answers")
    if not all(isinstance(each, dict) and isinstance(each.get("value"), str) for each in said):
        raise ValueError('conversations hold something else than {"from": ..., "value": "..."}')
    for i, each in enumerate(said):
        if each.get("from") not in (ASSISTANTS if i % 2 else USERS):
            raise ValueError(f"a turn of {each.get('from')!r} where another's is expected")
    values = [each["value"] for each in said]
    if (places := "".join(values).count(PLACEHOLDER)) > 1 or (places and not has_image):
        raise ValueError(f"{PLACEHOLDER} stands {places} times, with {int(has_image)} image")
    if places and PLACEHOLDER not in values[0]:
        raise ValueError(f"{PLACEHOLDER} stands behind the first question")
    values[0] = values[0].replace(PLACEHOLDER, "")
    words = [_words(value, ("question", "answer")[i % 2]) for i, value in enumerate(values)]
    return tuple(Exchange(*pair) for pair in zip(words[::2], words[1::2], strict=True))


def _boxes(found: Mapping[str, Any], has_image: bool) -> tuple[LabelledBox, ...]:
    """Return the labelled boxes, if any."""
    boxes = [] if found.get(BOXES) is None else found[BOXES]
    if boxes and not has_image:
        raise ValueError(f"{BOXES} without an image")
    if not isinstance(boxes, list) or not all(isinstance(each, dict) for each in boxes):
        raise ValueError(f'{BOXES} are no list of {{"label": ..., "box": [x, y, width, height]}}')
    return tuple(
        LabelledBox(_words(each.get("label"), f"label of {BOXES}[{i}]"), _box(each, i))
        for i, each in enumerate(boxes)
    )


def _box(found: Mapping[str, Any], i: int) -> tuple[float, float, float, float]:
    box = found.get("box")
    reason = f"{BOXES}[{i}]: box is not [x, y, width, height] in px, with sides above 0"
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(reason)
    if not all(type(number) in (int, float) and abs(number) < 2**24 for number in box):
        raise ValueError(reason)
    x, y, width, height = box
    if min(width, height) <= 0:
        raise ValueError(reason)
    return x, y, width, height


def _words(value: Any, name: str) -> str:
    """Return a text without white space around it; raise ValueError if there is none."""
    if value is None:
        raise ValueError(f"no {name}")
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    if not (text := value.strip()):
        raise ValueError(f"empty {name}")
    if any("\ud800" <= each <= "\udfff" for each in text):
        raise ValueError(f"{name} is not UTF-8")
    return text
