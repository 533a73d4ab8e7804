"""The exam in the world of shapes, in GenEval's style.

Six categories are scored twice: by GenEval's rule (what was asked for is there) and strictly (and
nothing else is).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from janus_edge.evals.scoring import Exam
from janus_edge.shapes.captions import CATEGORIES, Caption, caption
from janus_edge.shapes.questions import TOPICS, Question, question
from janus_edge.shapes.scenes import SPLITS, Scene, render, scenes
from janus_edge.shapes.scorer import holds, satisfies

_KIND_OF = {
    "single_object": "single",
    "colours": "single",
    "two_objects": "pair",
    "position": "pair",
    "colour_attribution": "pair",
    "counting": "repeated",
}
RULES: dict[str, Callable[[np.ndarray, Caption], bool]] = {"geneval": holds, "strict": satisfies}


def prompts(split: str, count: int) -> Iterator[tuple[bool, Caption]]:
    """Yield captions, the categories in turn; half of each category is of held-out scenes.

    Args:
        split: One of ``SPLITS``.
        count: Number of captions.

    Yields:
        Whether the scene is held out, which the caption need not show, and the caption.
    """
    found = {held_out: scenes(split, held_out=held_out) for held_out in (True, False)}
    rng = np.random.default_rng(SPLITS[split])
    for index in range(count):
        category, held_out = CATEGORIES[index % 6], index // 6 % 2 == 0
        scene = next(s for s in found[held_out] if s.kind == _KIND_OF[category])
        yield held_out, caption(scene, rng, category)


def questions(split: str, count: int) -> Iterator[tuple[bool, Scene, Question]]:
    """Yield questions, the topics in turn; half of each topic is held out.

    Args:
        split: One of ``SPLITS``.
        count: Number of questions.

    Yields:
        Whether the combination is held out, the scene and the question.
    """
    found = {held_out: scenes(split, held_out=held_out) for held_out in (True, False)}
    rng = np.random.default_rng(SPLITS[split] + 1)
    for index in range(count):
        topic, held_out = TOPICS[index % 6], index // 6 % 2 == 0
        for scene in found[held_out]:
            asked = question(scene, rng, topic)
            if asked is not None:
                yield held_out, scene, asked
                break


def judge(image_HWC: np.ndarray, wanted: Caption) -> dict[str, bool]:
    """Return whether an image is right, by each rule.

    Args:
        image_HWC: The image (H, W, 3) uint8.
        wanted: What it was asked to show.
    """
    return {rule: holds_by(image_HWC, wanted) for rule, holds_by in RULES.items()}


EXAM = Exam(
    schema="shapes/2",  # shapes/1 had guidance_scale and temperature instead of settings
    model="tiny-janus",
    prompts=prompts,
    questions=questions,
    render=render,
    judge=judge,
)
