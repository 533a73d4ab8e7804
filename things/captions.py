"""Captions of scenes in English and Korean: in words, and as what the scorer checks.

Captions name things in the scene's order. Captions of a relation name either thing first, so that
the relation has to be read.
"""

from __future__ import annotations

import numpy as np

from janus_edge.things import english, korean
from janus_edge.things.artwork import STYLES
from janus_edge.things.scenes import Scene, held_out_style, relation_of
from janus_edge.things.wanted import CATEGORIES, LANGUAGES, Caption, Wanted, Wish

__all__ = ["CATEGORIES", "LANGUAGES", "Caption", "Wanted", "Wish", "caption", "describe", "wish_of"]

WORDS = {"english": english, "korean": korean}
_OPTIONS = {  # a category stands as often as it is drawn
    "single": (*["single_thing"] * 5, "background", "style", "style"),
    "pair": ("two_things", "position"),
    "repeated": ("counting",),
    "several": ("several",),
}
_ASIDE = 0.2  # how often a caption names background or style beside what its category is about


def caption(
    scene: Scene, rng: np.random.Generator, language: str, category: str | None = None
) -> Caption:
    """Return a random caption of a scene.

    Args:
        scene: What to describe.
        rng: Source of wording and details.
        language: One of ``LANGUAGES``.
        category: Category of the caption; None for a random one, which also says a background and
            a style that are not the usual ones.

    Raises:
        ValueError: The scene cannot be described in that category.
    """
    options = _OPTIONS[scene.kind]
    unusual = _unusual(scene) if category is None else set()
    if category is None:
        fit = [each for each in options if not unusual or each != "single_thing"]
        category = english.pick(rng, tuple(fit))
    if category not in options:
        raise ValueError(f"a scene of kind {scene.kind} has no caption of category {category}")
    scored = category == "single_thing"  # names the thing alone
    wish = wish_of(
        scene,
        turned=category == "position" and rng.random() < 0.5,
        relation=category == "position",
        background=category == "background"
        or "background" in unusual
        or (not scored and rng.random() < _ASIDE),
        style=category == "style" or "style" in unusual or (not scored and rng.random() < _ASIDE),
    )
    return Caption(
        text=WORDS[language].prompt(wish, rng),
        language=language,
        category=category,
        wanted=wish.wanted,
        relation=wish.relation,
        background=wish.background,
        style=wish.style,
    )


def _unusual(scene: Scene) -> set[str]:
    """Return what a caption that is taught says, so that what it does not say is always the same.

    That is a background other than white, and a style other than the first in which training
    shows all things of the scene.
    """
    held_out = {held_out_style(name) for name in scene.names}
    usual = next((style for style in STYLES if style not in held_out), None)
    found = {"background"} if scene.background != "white" else set()
    return found | ({"style"} if scene.style != usual else set())


def describe(scene: Scene, language: str) -> str:
    """Return the plain description of a scene: its things and its background."""
    return WORDS[language].describe(wish_of(scene, background=True))


def wish_of(
    scene: Scene,
    *,
    turned: bool = False,
    relation: bool = False,
    background: bool = False,
    style: bool = False,
) -> Wish:
    """Return a scene as what is wanted.

    Args:
        scene: A scene.
        turned: Name the second of two things first.
        relation: Say how two things lie.
        background: Say the background.
        style: Say the style.
    """
    things = scene.things[::-1] if turned else scene.things
    names = dict.fromkeys(placed.thing for placed in things)
    return Wish(
        wanted=tuple(
            Wanted(thing=name, count=sum(p.thing == name for p in things)) for name in names
        ),
        relation=relation_of(*things) if relation else None,
        background=scene.background if background else None,
        style=scene.style if style else None,
    )
