"""Korean questions about a scene: each function returns a question and its answer."""

from __future__ import annotations

import numpy as np

from janus_edge.things.artwork import THINGS
from janus_edge.things.english import OPPOSITE, pick, which
from janus_edge.things.korean import BACKGROUNDS, NUMBERS, SIDES, STYLES, particle
from janus_edge.things.wanted import Wanted

Pair = tuple[str, str]
DESCRIBE = ("그림을 설명해 주세요.", "이미지를 설명해 줘.", "그림에 무엇이 있나요?")
_KINDS = {"animals": "동물", "food": "음식", "plants": "식물"}
_YES_NO = ("아니요", "네")


def what(thing: str, rng: np.random.Generator) -> Pair:
    """Ask what the only thing is."""
    texts = [
        "이것은 무엇인가요?",
        "이게 뭐야?",
        "이것은 뭐예요?",
        "무엇이 보이나요?",
        "뭐가 보여?",
        "이 그림은 뭐야?",
    ]
    if kind := _KINDS.get(THINGS[thing].category):
        texts.append(f"이 {particle(kind, '은/는')} 무엇인가요?")
    return pick(rng, texts), THINGS[thing].korean[0]


def what_many(thing: str, rng: np.random.Generator) -> Pair:
    """Ask what several of a kind are."""
    return pick(rng, ("이것들은 무엇인가요?", "이것들은 뭐야?")), THINGS[thing].korean[0]


def what_where(first: str, second: str, relation: str, rng: np.random.Generator) -> Pair:
    """Ask for the first of two things by where it is."""
    side, other = SIDES[relation], THINGS[second].korean[0]
    texts = (
        f"{other} {side}에 무엇이 있나요?",
        f"{other} {side}에 있는 것은 뭐야?",
        f"{side}에 무엇이 있나요?",
    )
    return pick(rng, texts), THINGS[first].korean[0]


def how_many_things(count: int, rng: np.random.Generator) -> Pair:
    """Ask how many things there are."""
    texts = ("물건이 몇 개 있나요?", "모두 몇 개인가요?", "전부 몇 개야?")
    return pick(rng, texts), f"{NUMBERS[count]} 개"


def how_many(item: Wanted, rng: np.random.Generator) -> Pair:
    """Ask how many of a kind there are."""
    thing = THINGS[item.thing]
    name, counter = thing.korean[which(thing.korean, rng)], thing.counter
    texts = (
        f"{particle(name, '이/가')} 몇 {counter} 있나요?",
        f"{name} 몇 {particle(counter, '이야/야')}?",
    )
    return pick(rng, texts), f"{NUMBERS[item.count]} {counter}"


def is_there(thing: str, there: bool, rng: np.random.Generator) -> Pair:
    """Ask whether a thing is there."""
    name = particle(THINGS[thing].korean[which(THINGS[thing].korean, rng)], "이/가")
    texts = (f"{name} 있나요?", f"{name} 있어?", f"그림에 {name} 있나요?", f"{name} 보이나요?")
    return pick(rng, texts), _YES_NO[there]


def where(first: str, second: str, relation: str, rng: np.random.Generator) -> Pair:
    """Ask where the first thing is, seen from the second."""
    name, other = particle(THINGS[first].korean[0], "은/는"), THINGS[second].korean[0]
    texts = (
        f"{name} {other}의 어느 쪽에 있나요?",
        f"{name} {other} 기준으로 어디에 있나요?",
    )
    return pick(rng, texts), SIDES[relation]


def where_alone(thing: str, relation: str, rng: np.random.Generator) -> Pair:
    """Ask on which side of the image a thing is."""
    name = particle(THINGS[thing].korean[0], "은/는")
    return pick(rng, (f"{name} 어디에 있나요?", f"{name} 어디에 있어?")), SIDES[relation]


def is_where(first: str, second: str, asked: str, right: bool, rng: np.random.Generator) -> Pair:
    """Ask whether the first thing is somewhere, seen from the second."""
    if rng.random() < 0.3:
        first, second, asked = second, first, OPPOSITE[asked]
    name, other = particle(THINGS[first].korean[0], "이/가"), THINGS[second].korean[0]
    return f"{name} {other} {SIDES[asked]}에 있나요?", _YES_NO[right]


def what_background(background: str, rng: np.random.Generator) -> Pair:
    """Ask for the colour of the background."""
    texts = (
        "배경은 무슨 색인가요?",
        "배경이 무슨 색이야?",
        "배경 색은 무엇인가요?",
        "배경색이 뭐야?",
    )
    return pick(rng, texts), BACKGROUNDS[background][0]


def what_style(style: str, rng: np.random.Generator) -> Pair:
    """Ask for the style."""
    texts = (
        "그림 스타일은 무엇인가요?",
        "어떤 스타일로 그렸나요?",
        "무슨 스타일이야?",
        "만화, 플랫, 입체 중 어떤 스타일인가요?",
    )
    return pick(rng, texts), STYLES[style][0]


def tell(description: str, style: str) -> str:
    """Return what is there, and its style, as sentences."""
    return f"{particle(description, '이/가')} 있습니다. 스타일은 {STYLES[style][0]}입니다."


def tell_relation(first: str, second: str, relation: str) -> str:
    """Return how two things lie, as a sentence."""
    name = particle(THINGS[first].korean[0], "은/는")
    return f"{name} {THINGS[second].korean[0]} {SIDES[relation]}에 있습니다."
