"""The bundles that ship draw what the README asks of them, and are right about images."""

from __future__ import annotations

import numpy as np
import pytest

from janus_edge.evals import shapes, things
from janus_edge.evals.scoring import Exam, answer, draw, is_right
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.shapes.captions import Caption, Wanted
from janus_edge.things import wanted as of_things

EXAMS = {"tiny-janus": shapes.EXAM, "tiny-flow": shapes.EXAM, "tiny-things": things.EXAM}
LEAST = {"tiny-janus": (0.4, 0.6), "tiny-flow": (0.4, 0.6), "tiny-things": (0.25, 0.5)}
README: dict[str, Caption | of_things.Caption] = {
    "tiny-things": of_things.Caption(
        text="a red apple",
        language="english",
        category="single_thing",
        wanted=(of_things.Wanted(thing="apple"),),
    ),
    "tiny-janus": Caption(
        text="three red circles",
        category="counting",
        wanted=(Wanted(shape="circle", colour="red", count=3),),
    ),
    "tiny-flow": Caption(
        text="a blue square left of a yellow star",
        category="position",
        wanted=(
            Wanted(shape="square", colour="blue"),
            Wanted(shape="star", colour="yellow"),
        ),
        relation="left of",
    ),
}


@pytest.fixture(scope="module", params=README)
def session(request: pytest.FixtureRequest) -> Session:
    return Session(open_bundle(request.param), num_threads=1)


@pytest.fixture
def exam(session: Session) -> Exam:
    """Return the exam of the world that the bundle learned."""
    return EXAMS[session.bundle.manifest.name]


def test_each_world_has_its_bundle() -> None:
    assert all(each.model in EXAMS for each in EXAMS.values()) and set(EXAMS) == set(README)


def test_the_readmes_image_is_right(session: Session, exam: Exam) -> None:
    wanted = README[session.bundle.manifest.name]
    assert all(exam.judge(draw(session, ImageRequest(prompt=wanted.text)).pixels, wanted).values())


def test_enough_images_and_answers_are_right(session: Session, exam: Exam) -> None:
    """Judge a few only; docs/training.md has the scores, by ``janus-edge eval``."""
    drawn = [
        exam.judge(draw(session, ImageRequest(prompt=wanted.text, seed=seed)).pixels, wanted)[
            "geneval"
        ]
        for seed, (_, wanted) in enumerate(exam.prompts("validation", 24))
    ]
    answered = [
        is_right(answer(session, exam.render(scene), asked.text), asked.answer)
        for _, scene, asked in exam.questions("validation", 12)
    ]
    least_drawn, least_answered = LEAST[session.bundle.manifest.name]
    assert np.mean(drawn) >= least_drawn and np.mean(answered) >= least_answered
