"""Questions about a scene, each with its one right answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from janus_edge.shapes.captions import NUMBERS, OPPOSITE, article, describe, plural, relation_of
from janus_edge.shapes.scenes import COLOURS, IMAGE_SIZE, SHAPES, Scene, Thing


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and its answer.

    Attributes:
        topic: One of ``LESSONS``.
        text: The question.
        answer: The right answer, word for word.
    """

    topic: str
    text: str
    answer: str


def question(scene: Scene, rng: np.random.Generator, topic: str | None = None) -> Question | None:
    """Return a random question about a scene; None if the scene has none of the topic.

    Args:
        scene: What to ask about.
        rng: Source of topic and details.
        topic: One of ``LESSONS``; None for a random one of ``TOPICS``.
    """
    if topic is None:
        topic = TOPICS[int(rng.integers(len(TOPICS)))]
    asked = _ASK[topic](scene, rng)
    return asked and Question(topic=topic, text=asked[0], answer=asked[1])


def tell(scene: Scene) -> str:
    """Return a scene in words alone, with the places of two things: what a blind reader needs."""
    text = f"there is {describe(scene)}."
    if scene.kind == "pair":
        first, second = scene.things
        text += f" the {first.shape} is {relation_of(first, second)} the {second.shape}."
    return text


Asked = tuple[str, str] | None


def _colour(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask for the colour of the background, or of a shape that has one colour in this scene."""
    word = _pick(rng, ("colour", "color"))
    if rng.random() < 0.15:
        text = f"what {word} is the background?"
        return text, scene.background
    named: dict[str, set[str]] = {}
    for thing in scene.things:
        named.setdefault(thing.shape, set()).add(thing.colour)
    certain = tuple(shape for shape, colours in named.items() if len(colours) == 1)
    shape = _pick(rng, certain)
    many = sum(thing.shape == shape for thing in scene.things) > 1
    verb, name = ("are", plural(shape)) if many else ("is", shape)
    (colour,) = named[shape]
    return f"what {word} {verb} the {name}?", colour


def _shape(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask for the shape of the only thing of a colour."""
    counts = Counter(thing.colour for thing in scene.things)
    single = [thing for thing in scene.things if counts[thing.colour] == 1]
    if not single:
        return None
    thing = single[int(rng.integers(len(single)))]
    what = _pick(rng, ("object", "thing"))
    return f"what shape is the {thing.colour} {what}?", thing.shape


def _count(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask for the number of all things, or of a shape or a coloured shape, which may be absent."""
    roll = rng.random()
    if roll < 0.3:
        count, name = len(scene.things), "objects"
    else:
        shape, colour = _pick(rng, SHAPES), _pick(rng, tuple(COLOURS))
        if roll < 0.85:
            thing = scene.things[int(rng.integers(len(scene.things)))]
            shape, colour = thing.shape, thing.colour
        exact = rng.random() < 0.4
        name = plural(f"{colour} {shape}" if exact else shape)
        count = sum(t.shape == shape and (t.colour == colour or not exact) for t in scene.things)
    return f"how many {name} are there?", NUMBERS[count]


def _existence(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask whether a thing is there.

    Half of the answers are no. Half of those share a look with something that is there.
    """
    thing = scene.things[int(rng.integers(len(scene.things)))]
    shape, colour = thing.shape, thing.colour
    present = {(t.shape, t.colour) for t in scene.things}
    if rng.random() < 0.5:
        keep = int(rng.integers(4))
        while (shape, colour) in present:
            shape = thing.shape if keep == 0 else _pick(rng, SHAPES)
            colour = thing.colour if keep == 1 else _pick(rng, tuple(COLOURS))
    answer = "yes" if (shape, colour) in present else "no"
    return f"is there {article(f'{colour} {shape}')}?", answer


def _position(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask how two things of different shapes lie that are clearly apart along one axis."""
    names = Counter(thing.shape for thing in scene.things)
    pairs = [
        (a, b)
        for a in scene.things
        for b in scene.things
        if a is not b and names[a.shape] == names[b.shape] == 1 and _clear(a, b)
    ]
    if not pairs:
        return None
    first, second = pairs[int(rng.integers(len(pairs)))]
    relation = relation_of(first, second)
    if rng.random() < 0.5:
        return f"where is the {first.shape} relative to the {second.shape}?", relation
    asked = relation if rng.random() < 0.5 else OPPOSITE[relation]
    answer = "yes" if asked == relation else "no"
    return f"is the {first.shape} {asked} the {second.shape}?", answer


def _place(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask for the quarter of the image that holds the centre of the only thing of a shape."""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    if sum(other.shape == thing.shape for other in scene.things) > 1:
        return None
    x, y = thing.centre
    row, column = (
        "top" if y < IMAGE_SIZE / 2 else "bottom",
        "left" if x < IMAGE_SIZE / 2 else "right",
    )
    return f"where is the {thing.shape}?", f"{row} {column}"


def _describe(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask for the full description."""
    text = _pick(rng, ("describe the picture.", "describe the image.", "what is in the picture?"))
    return text, describe(scene)


def _clear(a: Thing, b: Thing) -> bool:
    """Return True if two things are clearly further apart along one axis than along the other."""
    (x1, y1), (x2, y2) = a.centre, b.centre
    return abs(abs(x1 - x2) - abs(y1 - y2)) >= 8  # px


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Return a random option."""
    return options[int(rng.integers(len(options)))]


_ASK: dict[str, Callable[[Scene, np.random.Generator], Asked]] = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "existence": _existence,
    "position": _position,
    "describe": _describe,
    "place": _place,
}
TOPICS = ("colour", "shape", "count", "existence", "position", "describe")  # what is scored
# What is taught, with weights: where two things are starts with where one is.
LESSONS = dict.fromkeys((*TOPICS, "place"), 1)
