"""English questions about a scene: each function returns a question and its answer."""

from __future__ import annotations

import numpy as np

from janus_edge.things.artwork import THINGS
from janus_edge.things.english import NUMBERS, OPPOSITE, SIDES, is_are, noun, pick, the, which
from janus_edge.things.wanted import Wanted

Pair = tuple[str, str]
DESCRIBE = ("describe the picture.", "describe the image.", "what is in the picture?")
_KINDS = {"animals": "animal", "food": "food", "vehicles": "vehicle", "plants": "plant"}


def what(thing: str, rng: np.random.Generator) -> Pair:
    """Ask what the only thing is."""
    texts = [
        "what is this?",
        "what is this?",
        "what is it?",
        "what's this?",
        "what do you see?",
        "what is shown here?",
        "what can you see in the image?",
    ]
    if kind := _KINDS.get(THINGS[thing].category):
        texts.append(f"what {kind} is this?")
    return pick(rng, texts), noun(Wanted(thing=thing))


def what_many(thing: str, rng: np.random.Generator) -> Pair:
    """Ask what several of a kind are."""
    texts = ("what are these?", "what are they?", "what things are these?")
    return pick(rng, texts), THINGS[thing].plurals[0]


def what_where(first: str, second: str, relation: str, rng: np.random.Generator) -> Pair:
    """Ask for the first of two things by where it is."""
    text = pick(rng, (f"what is {relation} {the(second)}?", f"what is {_place(relation)}?"))
    return text, noun(Wanted(thing=first))


def how_many_things(count: int, rng: np.random.Generator) -> Pair:
    """Ask how many things there are."""
    texts = ("how many things are there?", "how many objects are there?")
    return pick(rng, texts), NUMBERS[count]


def how_many(item: Wanted, rng: np.random.Generator) -> Pair:
    """Ask how many of a kind there are."""
    plurals = THINGS[item.thing].plurals
    name = plurals[which(plurals, rng)]
    texts = (f"how many {name} are there?", f"how many {name} do you see?", f"how many {name}?")
    return pick(rng, texts), NUMBERS[item.count]


def is_there(thing: str, there: bool, rng: np.random.Generator) -> Pair:
    """Ask whether a thing is there."""
    name = noun(Wanted(thing=thing), name=which(THINGS[thing].english, rng))
    verb = is_are(THINGS[thing])
    texts = (f"{verb} there {name}?", f"{verb} there {name} in the image?", f"do you see {name}?")
    return pick(rng, texts), "yes" if there else "no"


def where(first: str, second: str, relation: str, rng: np.random.Generator) -> Pair:
    """Ask where the first thing is, seen from the second."""
    verb = is_are(THINGS[first])
    texts = (
        f"where {verb} {the(first)} relative to {the(second)}?",
        f"where {verb} {the(first)}, seen from {the(second)}?",
    )
    return pick(rng, texts), relation


def where_alone(thing: str, relation: str, rng: np.random.Generator) -> Pair:
    """Ask on which side of the image a thing is."""
    name = f"{is_are(THINGS[thing])} {the(thing)}"
    return pick(rng, (f"where {name}?", f"where {name} in the image?")), _place(relation)


def is_where(first: str, second: str, asked: str, right: bool, rng: np.random.Generator) -> Pair:
    """Ask whether the first thing is somewhere, seen from the second."""
    if rng.random() < 0.3:
        first, second, asked = second, first, OPPOSITE[asked]
    text = f"{is_are(THINGS[first])} {the(first)} {asked} {the(second)}?"
    return text, "yes" if right else "no"


def what_background(background: str, rng: np.random.Generator) -> Pair:
    """Ask for the colour of the background."""
    texts = (
        "what colour is the background?",
        "what color is the background?",
        "what is the background colour?",
        "what is the background color?",
    )
    return pick(rng, texts), background


def what_style(style: str, rng: np.random.Generator) -> Pair:
    """Ask for the style."""
    texts = (
        "what style is this?",
        "in what style is it drawn?",
        "what is the style of the picture?",
        "which drawing style is it: cartoon, flat or shaded?",
    )
    return pick(rng, texts), style


def tell(description: str, style: str) -> str:
    """Return what is there, and its style, as sentences."""
    return f"there is {description}. the style is {style}."


def tell_relation(first: str, second: str, relation: str) -> str:
    """Return how two things lie, as a sentence."""
    return f"{the(first)} {is_are(THINGS[first])} {relation} {the(second)}."


def _place(relation: str) -> str:
    """Return where in the image the first thing of a relation is."""
    return f"{'on' if relation in ('left of', 'right of') else 'at'} the {SIDES[relation]}"
