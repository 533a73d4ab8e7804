"""Questions about a scene in English and Korean, each with its one right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from janus_edge.things import questions_english, questions_korean
from janus_edge.things.artwork import THINGS
from janus_edge.things.captions import describe
from janus_edge.things.english import OPPOSITE, pick
from janus_edge.things.scenes import Scene, relation_of, side_of
from janus_edge.things.wanted import Wanted

Pair = tuple[str, str]  # question and answer
WORDS = {"english": questions_english, "korean": questions_korean}
COVERS = {  # what is also, in a word, the first: never asked for as if it were not there
    "apple": {"green-apple"},
    "bear": {"panda", "polar-bear", "teddy-bear"},
    "bird": {
        *("chick", "chicken", "dove", "duck", "eagle", "flamingo", "owl", "parrot", "peacock"),
        *("penguin", "rooster", "swan"),
    },
    "birthday-cake": {"cupcake", "piece-of-cake"},
    "book": {"open-book"},
    "bread": {"croissant", "sandwich"},
    "car": {"police-car", "race-car", "taxi"},
    "cat": {"cat-face"},
    "clock": {"alarm-clock", "watch"},
    "cloud": {"partly-cloudy-sky", "rain-cloud", "snow-cloud", "thundercloud"},
    "computer": {"laptop"},
    "crescent-moon": {"full-moon"},
    "dinosaur": {"t-rex"},
    "dog": {"dog-face"},
    "egg": {"fried-egg"},
    "fire": {"candle", "heart-on-fire"},
    "fish": {"shark", "tropical-fish"},
    "flower": {"bouquet", "cherry-blossom", "hibiscus", "rose", "sunflower", "tulip"},
    "full-moon": {"crescent-moon"},
    "happy-face": {
        *("angel-face", "cool-face", "cowboy-face", "face-with-tongue-out", "heart-eyes-face"),
        *("kissing-face", "laughing-face", "nerd-face", "winking-face"),
    },
    "hat": {"cap", "top-hat"},
    "heart": {
        *("black-heart", "blue-heart", "broken-heart", "green-heart", "heart-on-fire"),
        *("heart-with-an-arrow", "love-letter", "orange-heart", "purple-heart"),
        *("sparkling-heart", "yellow-heart"),
    },
    "ice-cream": {"ice-cream-cone"},
    "man": {"chef", "firefighter", "old-man", "police-officer", "prince", "santa-claus", "wizard"},
    "mountain": {"volcano"},
    "mouse": {"computer-mouse"},
    "office-building": {"castle", "church", "convenience-store", "factory", "hospital", "school"},
    "partly-cloudy-sky": {"cloud", "sun"},
    "potted-plant": {"cactus", "seedling"},
    "sad-face": {"crying-face"},
    "ship": {"sailboat", "speedboat"},
    "shoe": {"boot", "high-heel", "sneaker"},
    "smartphone": {"telephone"},
    "star": {"shooting-star"},
    "sun": {"partly-cloudy-sky"},
    "telephone": {"smartphone"},
    "train": {"bullet-train", "steam-train"},
    "tree": {"christmas-tree", "palm-tree", "pine-tree"},
    "truck": {"fire-truck"},
    "woman": {"mermaid", "old-woman", "princess"},
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and its answer.

    Attributes:
        topic: One of ``LESSONS``.
        language: One of ``LANGUAGES``.
        text: The question.
        answer: The right answer, word for word.
    """

    topic: str
    language: str
    text: str
    answer: str


def question(
    scene: Scene, rng: np.random.Generator, language: str, topic: str | None = None
) -> Question | None:
    """Return a random question about a scene; None if the scene has none of the topic.

    Args:
        scene: What to ask about.
        rng: Source of topic and details.
        language: One of ``LANGUAGES``.
        topic: One of ``LESSONS``; None for a random one of ``TOPICS``.
    """
    topic = topic or pick(rng, TOPICS)
    asked = _ASK[topic](scene, rng, language)
    return asked and Question(topic=topic, language=language, text=asked[0], answer=asked[1])


def tell(scene: Scene, language: str) -> str:
    """Return a scene in words alone, with style and places: what a blind reader needs."""
    words = WORDS[language]
    text = words.tell(describe(scene, language), scene.style)
    if scene.kind == "pair":
        first, second = scene.things
        relation = relation_of(first, second)
        text += " " + words.tell_relation(first.thing, second.thing, relation)
    return text


def _thing(scene: Scene, rng: np.random.Generator, language: str) -> Pair | None:
    """Ask what is there, or of two things what lies on a side."""
    words = WORDS[language]
    if scene.kind == "single":
        return words.what(scene.things[0].thing, rng)
    if scene.kind == "repeated":
        return words.what_many(scene.things[0].thing, rng)
    if scene.kind == "several":
        return None
    first, second = scene.things if rng.random() < 0.5 else scene.things[::-1]
    return words.what_where(first.thing, second.thing, relation_of(first, second), rng)


def _count(scene: Scene, rng: np.random.Generator, language: str) -> Pair | None:
    """Ask for the number of things; seldom of one alone."""
    if scene.kind == "single" and rng.random() < 0.8:
        return None
    return _number(scene, rng, language)


def _one(scene: Scene, rng: np.random.Generator, language: str) -> Pair | None:
    """Ask for the number of what is alone."""
    return _number(scene, rng, language) if scene.kind == "single" else None


def _number(scene: Scene, rng: np.random.Generator, language: str) -> Pair | None:
    """Ask for the number of all things, or of a kind that is there."""
    words = WORDS[language]
    if scene.kind in ("pair", "several") or rng.random() < 0.25:
        return words.how_many_things(len(scene.things), rng)
    thing = scene.things[0].thing
    if THINGS[thing].number != "singular":
        return None
    return words.how_many(Wanted(thing=thing, count=len(scene.things)), rng)


def _existence(scene: Scene, rng: np.random.Generator, language: str) -> Pair:
    """Ask whether a thing is there.

    Half of the answers are no; half of those ask for a thing of the same category.
    """
    thing = pick(rng, scene.names)
    if rng.random() < 0.5:
        return WORDS[language].is_there(thing, True, rng)
    category = THINGS[thing].category if rng.random() < 0.5 else None
    others = [
        other
        for other in THINGS
        if other not in scene.names
        and category in (None, THINGS[other].category)
        and not COVERS.get(other, set()).intersection(scene.names)
    ]
    return WORDS[language].is_there(pick(rng, others), False, rng)


def _position(scene: Scene, rng: np.random.Generator, language: str) -> Pair | None:
    """Ask how two things lie."""
    if scene.kind != "pair":
        return None
    first, second = scene.things if rng.random() < 0.5 else scene.things[::-1]
    relation = relation_of(first, second)
    if rng.random() < 0.6:
        return WORDS[language].where(first.thing, second.thing, relation, rng)
    asked = relation if rng.random() < 0.5 else OPPOSITE[relation]
    return WORDS[language].is_where(first.thing, second.thing, asked, asked == relation, rng)


def _place(scene: Scene, rng: np.random.Generator, language: str) -> Pair | None:
    """Ask on which side a thing is: one of two, or one alone that is not in the middle."""
    if scene.kind == "single":
        (alone,) = scene.things
        side = side_of(alone)
        return None if side is None else WORDS[language].where_alone(alone.thing, side, rng)
    if scene.kind != "pair":
        return None
    first, second = scene.things if rng.random() < 0.5 else scene.things[::-1]
    return WORDS[language].where_alone(first.thing, relation_of(first, second), rng)


def _background(scene: Scene, rng: np.random.Generator, language: str) -> Pair:
    """Ask for the colour of the background."""
    return WORDS[language].what_background(scene.background, rng)


def _style(scene: Scene, rng: np.random.Generator, language: str) -> Pair:
    """Ask for the style."""
    return WORDS[language].what_style(scene.style, rng)


def _describe(scene: Scene, rng: np.random.Generator, language: str) -> Pair:
    """Ask for the description."""
    return pick(rng, WORDS[language].DESCRIBE), describe(scene, language)


_ASK: dict[str, Callable[[Scene, np.random.Generator, str], Pair | None]] = {
    "thing": _thing,
    "count": _count,
    "existence": _existence,
    "position": _position,
    "background": _background,
    "style": _style,
    "describe": _describe,
    "one": _one,
    "place": _place,
}
TOPICS = tuple(topic for topic in _ASK if topic not in ("one", "place"))  # what is scored
# What is taught, and how soon it comes up in a conversation: look-ups are learned late, and where
# two things are starts with where one is (docs/log.md, 2026-11-21 and 2026-11-30).
LESSONS = dict.fromkeys(TOPICS, 1) | {
    "one": 1,
    "thing": 4,
    "place": 3,
    "position": 3,
    "existence": 2,
}
