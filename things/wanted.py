"""What a caption asks for: the form that words are made from, and that the scorer checks."""

from __future__ import annotations

from dataclasses import dataclass

CATEGORIES = ("single_thing", "two_things", "counting", "background", "position", "style")
LANGUAGES = ("english", "korean")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Things that an image must show.

    Attributes:
        thing: One of ``THINGS``.
        count: How many.
    """

    thing: str
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What an image must show: these things and no others.

    Attributes:
        wanted: The things, in the order in which the text names them.
        relation: Where the first thing is, seen from the second; None if the text does not say.
        background: One of ``BACKGROUNDS``; None for any.
        style: One of ``STYLES``; None for any.
    """

    wanted: tuple[Wanted, ...]
    relation: str | None = None
    background: str | None = None
    style: str | None = None


@dataclass(frozen=True, kw_only=True)
class Caption(Wish):
    """A prompt, and what an image must show to satisfy it.

    Attributes:
        text: The prompt.
        language: One of ``LANGUAGES``.
        category: One of ``CATEGORIES``, or ``several``.
    """

    text: str
    language: str
    category: str
