"""The exam in the world of everyday things, in English and Korean.

Six categories are scored as in the world of shapes. An image of a single thing is also compared
with all things: is it most like what was asked for (top1), or among the five likest (top5)?
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from janus_edge.evals.scoring import Exam
from janus_edge.things import scorer
from janus_edge.things.captions import CATEGORIES, LANGUAGES, Caption, caption
from janus_edge.things.questions import TOPICS, Question, question
from janus_edge.things.scenes import SPLITS, Scene, render, scenes

_KIND_OF = {
    "single_thing": "single",
    "background": "single",
    "style": "single",
    "two_things": "pair",
    "position": "pair",
    "counting": "repeated",
}


def prompts(split: str, count: int) -> Iterator[tuple[bool, Caption]]:
    """Yield captions, the categories in turn; half of each is of held-out scenes, half Korean.

    Args:
        split: One of ``SPLITS``.
        count: Number of captions.

    Yields:
        Whether the scene is held out, which the caption need not show, and the caption.
    """
    found = {held_out: scenes(split, held_out=held_out) for held_out in (True, False)}
    rng = np.random.default_rng(SPLITS[split])
    for index in range(count):
        turn, at = divmod(index, len(CATEGORIES))
        category, held_out, language = CATEGORIES[at], turn % 2 == 0, LANGUAGES[turn // 2 % 2]
        scene = next(s for s in found[held_out] if s.kind == _KIND_OF[category])
        yield held_out, caption(scene, rng, language, category)


def questions(split: str, count: int) -> Iterator[tuple[bool, Scene, Question]]:
    """Yield questions, the topics in turn; half of each topic is held out, half Korean.

    Args:
        split: One of ``SPLITS``.
        count: Number of questions.

    Yields:
        Whether the combination is held out, the scene and the question.
    """
    found = {held_out: scenes(split, held_out=held_out) for held_out in (True, False)}
    rng = np.random.default_rng(SPLITS[split] + 1)
    for index in range(count):
        turn, at = divmod(index, len(TOPICS))
        held_out, language = turn % 2 == 0, LANGUAGES[turn // 2 % 2]
        for scene in found[held_out]:
            asked = question(scene, rng, language, TOPICS[at])
            if asked is not None:
                yield held_out, scene, asked
                break


def judge(image_HWC: np.ndarray, wanted: Caption) -> dict[str, bool]:
    """Return whether an image is right, by each rule.

    Args:
        image_HWC: The image (H, W, 3) uint8.
        wanted: What it was asked to show.
    """
    verdict = scorer.judge(image_HWC, wanted)
    found = {"geneval": verdict.holds, "strict": verdict.strict}
    if wanted.category == "single_thing":
        likest, thing = scorer.ranking(image_HWC), wanted.wanted[0].thing
        found |= {"top1": likest[:1] == [thing], "top5": thing in likest}
    return found


EXAM = Exam(
    schema="things/3",  # things/1 and 2 had other shares of scenes, and 1 compared letter cases
    model="tiny-things",
    prompts=prompts,
    questions=questions,
    render=render,
    judge=judge,
)
