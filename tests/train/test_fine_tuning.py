"""The fine-tuning of tiny-things: bench/programs/fine_tuning.py. Minutes: ``-m slow``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from janus_edge.bench.programs.blips import is_blip, picture
from janus_edge.bench.programs.fine_tuning import measured
from janus_edge.bench.programs.houses import house, is_house
from janus_edge.shapes import scenes as shapes
from janus_edge.things.scenes import BACKGROUNDS, render, scenes

MOST_S = 20 * 60


def test_the_judge_knows_houses() -> None:
    for background in shapes.BACKGROUNDS:
        for colour in shapes.COLOURS:
            image = house(colour, background, 1, 2)
            assert is_house(image, colour)
            assert not is_house(image, "red" if colour != "red" else "blue")


def test_the_judge_knows_blips() -> None:
    for background in BACKGROUNDS:
        assert is_blip(picture(background, 80, 8, 0))
        assert is_blip(picture(background, 64, 24, 16))
    singles = (scene for scene in scenes("test") if scene.kind == "single")
    assert not any(is_blip(render(scene)) for scene in islice(singles, 40))


@pytest.mark.slow
def test_something_new_is_learned_and_what_was_known_stays(tmp_path: Path) -> None:
    """Fine-tune the default model; docs/fine-tuning.md says what tiny-janus forgets."""
    found = measured(tmp_path, "tiny-things", 600, ["full", "lora"])
    before = found["before"]
    assert before["new"] <= 0.1
    for way in ("full", "lora"):
        assert found[way]["new"] >= 0.6
        assert found[way]["training_s"] < MOST_S
        for task, score in before["old"].items():
            assert found[way]["old"][task] >= score - 0.03, (way, task)
