"""Korean words for things: particles, counters, and prompts as people type them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from janus_edge.things.artwork import THINGS
from janus_edge.things.english import pick, which
from janus_edge.things.wanted import Wanted, Wish

NUMBERS = ("영", "한", "두", "세", "네", "다섯")
SIDES = {"left of": "왼쪽", "right of": "오른쪽", "above": "위", "below": "아래"}
BACKGROUNDS = {  # the word that answers use, and the other one that prompts use
    "white": ("흰색", "하얀"),
    "grey": ("회색", "회색"),
    "pink": ("분홍색", "핑크"),
    "orange": ("주황색", "주황"),
    "yellow": ("노란색", "노란"),
    "green": ("초록색", "초록"),
    "blue": ("파란색", "파란"),
    "purple": ("보라색", "보라"),
}
STYLES = {"cartoon": ("만화",), "flat": ("플랫", "평면"), "shaded": ("입체", "3d")}
_ADJECTIVES = ("귀여운", "예쁜", "멋진", "아름다운", "재미있는", "간단한")
_FRAMES = (
    "{} 그려줘",
    "{} 그려줘",
    "{을} 그려줘",
    "{} 그려 주세요",
    "{을} 그려 주세요",
    "{} 그림",
    "{} 그림",
    "{} 그림 그려줘",
    "{} 이미지",
    "{} 사진",
    "{} 이모지",
    "{} 보여줘",
    "{} 그려줄래?",
    "{을} 그려봐",
)
_SYLLABLES = range(ord("가"), ord("힣") + 1)
_FINALS = 28  # syllables in a row of Unicode's table; the first of a row has no final consonant


def particle(word: str, pair: str) -> str:
    """Return a word with the particle that fits its last syllable.

    Args:
        word: A word that ends in Hangul; any other end counts as a vowel.
        pair: The particle after a consonant and after a vowel: ``을/를``, ``과/와``.
    """
    after_consonant, after_vowel = pair.split("/")
    code = ord(word[-1])
    closed = code in _SYLLABLES and (code - _SYLLABLES.start) % _FINALS != 0
    return word + (after_consonant if closed else after_vowel)


def counted(item: Wanted, *, name: int = 0, digits: bool = False) -> str:
    """Return a name with its count and counter: ``고양이 두 마리``."""
    thing = THINGS[item.thing]
    number = str(item.count) if digits else NUMBERS[item.count] + " "
    return f"{thing.korean[name]} {number}{thing.counter}"


def joined(words: Sequence[str], pair: str = "과/와") -> str:
    """Return words joined by commas and, before the last, a particle."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join([*words[:-2], particle(words[-2], pair)])} {words[-1]}"


def describe(wish: Wish) -> str:
    """Return the plain description of things and background, which answers use."""
    words = [
        counted(item) if THINGS[item.thing].number == "singular" else THINGS[item.thing].korean[0]
        for item in wish.wanted
    ]
    return f"{BACKGROUNDS[str(wish.background)][0]} 배경에 {joined(words)}"


def prompt(wish: Wish, rng: np.random.Generator) -> str:
    """Return a prompt in one of the ways that people type it."""
    text = _words(wish, rng)
    heads: list[str] = []
    tails: list[str] = []
    if wish.style:
        style = pick(rng, STYLES[wish.style])
        form = pick(rng, ("{} 스타일 ", "{} 스타일의 ", "{} ", ", {} 스타일"))
        (tails if form.startswith(",") else heads).append(form.format(style))
    if wish.background:
        colour = pick(rng, BACKGROUNDS[wish.background])
        form = pick(rng, ("{} 배경에 ", "{} 배경의 ", "{} 배경에 있는 ", ", {} 배경"))
        (tails if form.startswith(",") else heads).append(form.format(colour))
    if len(heads) == 2:
        heads.reverse()  # the background, then the style next to the thing
    text = "".join(heads) + text + "".join(tails)
    if not tails and rng.random() < 0.45 and not text.endswith("그림"):
        text = pick(rng, _FRAMES).format(text, 을=particle(text, "을/를"))
    return text + "." if rng.random() < 0.04 else text


def _words(wish: Wish, rng: np.random.Generator) -> str:
    """Return the words for the things and their relation."""
    names = [_noun(item, rng, counts=wish.relation is None) for item in wish.wanted]
    if wish.relation is None:
        return joined(names, pick(rng, ("과/와", "과/와", "이랑/랑", "하고/하고")))
    first, second = names
    side = SIDES[wish.relation]
    roll = int(rng.integers(5))
    if roll == 0:
        return f"{second} {side}에 {first}"
    if roll == 1:
        return f"{second}의 {side}에 있는 {first}"
    if roll == 2:
        return f"{particle(first, '이/가')} {second} {side}에 있는 그림"
    return f"{second} {side}에 있는 {first}"


def _noun(item: Wanted, rng: np.random.Generator, *, counts: bool) -> str:
    """Return the words for one kind of thing; of one thing, ``counts`` lets them say so."""
    thing = THINGS[item.thing]
    name = which(thing.korean, rng)
    adjective = pick(rng, _ADJECTIVES) + " " if rng.random() < 0.1 else ""
    if item.count == 1:
        counts = counts and thing.number == "singular" and rng.random() < 0.1
        one = f" 한 {thing.counter}" if counts else ""
        return adjective + thing.korean[name] + one
    if rng.random() < 0.2:
        return f"{NUMBERS[item.count]} {thing.counter}의 {adjective}{thing.korean[name]}"
    return adjective + counted(item, name=name, digits=rng.random() < 0.25)
