"""The bundles that ship draw what the README asks of them, and are right about images."""

from __future__ import annotations

import numpy as np
import pytest

from janus_edge.evals.scoring import answer, draw
from janus_edge.evals.shapes import judge, prompts, questions
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.shapes.captions import Caption, Wanted
from janus_edge.shapes.scenes import render

README = {
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


def test_the_readmes_image_is_right(session: Session) -> None:
    wanted = README[session.bundle.manifest.name]
    assert all(judge(draw(session, ImageRequest(prompt=wanted.text)).pixels, wanted).values())


def test_most_images_and_answers_are_right(session: Session) -> None:
    """Of a few only; docs/training.md has the scores, by ``janus-edge eval shapes``."""
    drawn = [
        judge(draw(session, ImageRequest(prompt=wanted.text, seed=seed)).pixels, wanted)["geneval"]
        for seed, (_, wanted) in enumerate(prompts("validation", 12))
    ]
    answered = [
        answer(session, render(scene), asked.text) == asked.answer
        for _, scene, asked in questions("validation", 12)
    ]
    assert np.mean(drawn) >= 0.4 and np.mean(answered) >= 0.6
