"""The fine-tuning of the default model: bench/programs/fine_tuning.py. Minutes: ``-m slow``."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_edge.bench.programs.fine_tuning import measured
from janus_edge.bench.programs.houses import house, is_house
from janus_edge.shapes.scenes import BACKGROUNDS, COLOURS

MOST_S = 20 * 60


def test_the_judge_knows_houses() -> None:
    for background in BACKGROUNDS:
        for colour in COLOURS:
            image = house(colour, background, 1, 2)
            assert is_house(image, colour)
            assert not is_house(image, "red" if colour != "red" else "blue")


@pytest.mark.slow
def test_something_new_is_learned_and_what_was_known_stays(tmp_path: Path) -> None:
    found = measured(tmp_path, 600, ["full", "lora"])
    before = found["before"]
    assert before["new"] <= 0.1
    for way in ("full", "lora"):
        assert found[way]["new"] >= 0.6
        assert found[way]["training_s"] < MOST_S
        for task, score in before["old"].items():
            assert found[way]["old"][task] >= score - 0.03, (way, task)
