"""English words for things: names, articles, plurals, and prompts as people type them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from janus_edge.things.artwork import THINGS, Thing
from janus_edge.things.wanted import Wanted, Wish

NUMBERS = ("zero", "one", "two", "three", "four", "five")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SIDES = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
STYLE_WORDS = {"cartoon": ("cartoon",), "flat": ("flat",), "shaded": ("shaded", "3d")}
WORDINGS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_ADJECTIVES = ("cute", "nice", "beautiful", "funny", "pretty", "cool", "lovely", "simple")
_PREFIXES = (
    "draw ",
    "draw ",
    "draw me ",
    "please draw ",
    "a picture of ",
    "a picture of ",
    "an image of ",
    "a drawing of ",
    "a photo of ",
    "an emoji of ",
    "show me ",
    "i want ",
    "can you draw ",
    "make ",
    "paint ",
    "generate ",
)
_VOWEL_BUT_A = ("uni", "ufo", "eu", "one")  # "a unicorn"
_CONSONANT_BUT_AN = ("hour", "x mark")  # "an hourglass"


def article(words: str) -> str:
    """Return the words with ``a`` or ``an`` before them."""
    low = words.lower()
    vowel = low[0] in "aeiou" and not low.startswith(_VOWEL_BUT_A)
    return f"{'an' if vowel or low.startswith(_CONSONANT_BUT_AN) else 'a'} {words}"


def noun(
    item: Wanted,
    *,
    name: int = 0,
    before: str = "",
    bare: bool = False,
    digits: bool = False,
) -> str:
    """Return the words for one kind of thing: ``a red apple``, ``three cats``, ``scissors``.

    Args:
        item: The things.
        name: Which of the thing's names.
        before: Adjectives before the name; empty for none.
        bare: Leave out the article.
        digits: Whether a count above one is digits, not words.
    """
    thing = THINGS[item.thing]
    before = before and before + " "
    if item.count > 1:
        number = str(item.count) if digits else NUMBERS[item.count]
        plurals = thing.plurals or thing.english
        return f"{number} {before}{plurals[name].removeprefix('a ')}"
    words = thing.english[name]
    has_article = thing.number == "singular" or words.startswith("a ")
    words = before + words.removeprefix("a ")
    return article(words) if has_article and not bare else words


def the(thing: str, name: int = 0) -> str:
    """Return a thing's name after ``the``."""
    return f"the {THINGS[thing].english[name].removeprefix('a ')}"


def listed(words: Sequence[str]) -> str:
    """Return words joined by commas and ``and``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def describe(wish: Wish) -> str:
    """Return the plain description of things and background, which answers use."""
    words = listed([noun(item) for item in wish.wanted])
    return f"{words} on {article(str(wish.background))} background"


def is_are(thing: Thing) -> str:
    """Return the verb that a thing's names take."""
    return "are" if thing.number == "plural" else "is"


def prompt(wish: Wish, rng: np.random.Generator) -> str:
    """Return a prompt in one of the ways that people type it."""
    style = pick(rng, STYLE_WORDS[wish.style]) if wish.style else ""
    before = style if len(wish.wanted) == 1 and rng.random() < 0.5 else ""
    words = _words(wish, before, rng)
    tails = []
    if style and not before:
        tails.append(pick(rng, (f" in {style} style", f", {style} style", f" in a {style} style")))
    if wish.background:
        ground = f"{wish.background} background"
        tails.append(
            pick(rng, (f" on {article(ground)}", f" with {article(ground)}", f", {ground}"))
        )
    if len(tails) == 2 and rng.random() < 0.5:
        tails.reverse()
    text = words + "".join(tails)
    if rng.random() < 0.4:
        text = pick(rng, _PREFIXES) + text
    if rng.random() < 0.05:
        text += " please"
    return _typed(text, rng)


def _words(wish: Wish, before: str, rng: np.random.Generator) -> str:
    """Return the words for the things and their relation."""
    bare = rng.random() < 0.4
    digits = rng.random() < 0.25
    names = []
    for item in wish.wanted:
        adjective = pick(rng, _ADJECTIVES) if rng.random() < 0.1 else ""
        names.append(
            noun(
                item,
                name=which(THINGS[item.thing].english, rng),
                before=" ".join(word for word in (adjective, before) if word),
                bare=bare,
                digits=digits,
            )
        )
    if wish.relation is not None:
        return f"{names[0]} {pick(rng, WORDINGS[wish.relation])} {names[1]}"
    return listed(names)


def _typed(text: str, rng: np.random.Generator) -> str:
    """Return text with the capitals and the full stop that people type."""
    roll = rng.random()
    if roll < 0.5:
        text = text.lower()
    elif roll < 0.7:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.06 else text


def which(names: Sequence[str], rng: np.random.Generator) -> int:
    """Return the index of a name: the first most often, each other one often enough to learn."""
    return 0 if len(names) == 1 or rng.random() < 0.6 else int(rng.integers(1, len(names)))


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Return a random option."""
    return options[int(rng.integers(len(options)))]
