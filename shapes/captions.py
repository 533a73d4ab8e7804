"""Captions of scenes: in words, and as what the scorer checks.

"A and B" names things in raster order, the order in which they are drawn. Captions of a relation
name either thing first, so that the relation has to be read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from janus_edge.shapes.scenes import Scene, Thing

CATEGORIES = (
    "single_object",
    "two_objects",
    "counting",
    "colours",
    "position",
    "colour_attribution",
)
NUMBERS = ("zero", "one", "two", "three", "four", "five")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_PREFIXES = ("", "", "", "", "", "", "draw ", "a picture of ", "an image of ", "a photo of ")
_WORDINGS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Things that an image must show.

    Attributes:
        shape: Their shape.
        colour: Their colour; None for any.
        size: Their size; None for any.
        count: How many.
    """

    shape: str
    colour: str | None = None
    size: str | None = None
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A prompt, and what an image must show to satisfy it: these things and no others.

    Attributes:
        text: The prompt.
        category: One of ``CATEGORIES``, or ``several``.
        wanted: The things, in the order in which the text names them.
        relation: Where the first thing is, seen from the second; None if the text does not say.
        background: Colour of the background; None for any.
    """

    text: str
    category: str
    wanted: tuple[Wanted, ...]
    relation: str | None = None
    background: str | None = None


def caption(scene: Scene, rng: np.random.Generator, category: str | None = None) -> Caption:
    """Return a random caption of a scene.

    Args:
        scene: What to describe.
        rng: Source of wording and details.
        category: Category of the caption; None for a random one.

    Raises:
        ValueError: The scene cannot be described in that category.
    """
    options = _OPTIONS[scene.kind]
    if category is None:
        category = options[int(rng.integers(len(options)))]
    if category not in options:
        raise ValueError(f"a scene of kind {scene.kind} has no caption of category {category}")
    coloured = category in ("colours", "colour_attribution") or (
        category in ("counting", "position", "several") and rng.random() < 0.6
    )
    sized = rng.random() < 0.15
    relation, things = None, list(scene.things)
    if category == "position":
        if rng.random() < 0.5:
            things.reverse()
        relation = relation_of(*things)
    if category == "counting":
        wanted = [_wanted(things[0], coloured, sized, count=len(things))]
    else:
        wanted = [_wanted(thing, coloured, sized) for thing in things]
    background = scene.background if rng.random() < 0.25 else None
    wording = None if relation is None else _WORDINGS[relation][int(rng.integers(2))]
    digits = rng.random() < 0.2
    text = _PREFIXES[int(rng.integers(len(_PREFIXES)))] + phrase(
        wanted, wording, background, digits
    )
    if rng.random() < 0.1:
        text += "."
    return Caption(
        text=text,
        category=category,
        wanted=tuple(wanted),
        relation=relation,
        background=background,
    )


_OPTIONS = {
    "single": ("single_object", "colours"),
    "pair": ("two_objects", "position", "position", "colour_attribution", "colour_attribution"),
    "repeated": ("counting",),
    "several": ("several",),
}


def describe(scene: Scene) -> str:
    """Return the full description of a scene: all things with all looks, and the background."""
    things = scene.things
    if scene.kind == "repeated":
        wanted = [_wanted(things[0], True, True, count=len(things))]
    else:
        wanted = [_wanted(thing, True, True) for thing in things]
    return phrase(wanted, None, scene.background)


def phrase(
    wanted: list[Wanted], relation: str | None, background: str | None, digits: bool = False
) -> str:
    """Return English words for what is wanted.

    Args:
        wanted: The things, in the order to name them.
        relation: Words between the first and the second thing; None to list all.
        background: Colour of the background; None to leave it out.
        digits: Whether counts are digits, not words.
    """
    names = [noun(item, digits) for item in wanted]
    if relation is not None:
        text = f"{names[0]} {relation} {names[1]}"
    elif len(names) == 1:
        text = names[0]
    else:
        text = f"{', '.join(names[:-1])} and {names[-1]}"
    return text if background is None else f"{text} on {article(background)} background"


def noun(item: Wanted, digits: bool = False) -> str:
    """Return the words for one kind of thing: ``a red circle``, ``three small stars``.

    Args:
        item: The things.
        digits: Whether a count above one is digits, not words.
    """
    looks = " ".join(word for word in (item.size, item.colour, item.shape) if word)
    if item.count == 1:
        return article(looks)
    return f"{item.count if digits else NUMBERS[item.count]} {plural(looks)}"


def article(words: str) -> str:
    """Return the words with ``a`` or ``an`` before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(words: str) -> str:
    """Return the plural of a phrase that ends in a shape."""
    return words + ("es" if words.endswith("s") else "s")


def relation_of(first: Thing, second: Thing) -> str:
    """Return where the first thing is, seen from the second, along the longer axis."""
    (x1, y1), (x2, y2) = first.centre, second.centre
    if abs(x1 - x2) >= abs(y1 - y2):
        return "left of" if x1 < x2 else "right of"
    return "above" if y1 < y2 else "below"


def _wanted(thing: Thing, coloured: bool, sized: bool, count: int = 1) -> Wanted:
    """Return a thing as it is wanted, with the looks that the caption names."""
    return Wanted(
        shape=thing.shape,
        colour=thing.colour if coloured else None,
        size=thing.size if sized else None,
        count=count,
    )
