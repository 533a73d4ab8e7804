"""Check that the worlds' conversations teach every topic that an exam asks for."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from janus_edge.things import questions_english, questions_korean
from janus_edge.train.worlds import WORLDS, _content

DESCRIBE = {*questions_english.DESCRIBE, *questions_korean.DESCRIBE}  # in shapes, too


@pytest.mark.parametrize("name", WORLDS)
def test_conversations_end_with_a_description_if_they_have_one(name: str) -> None:
    world, lengths = WORLDS[name], []
    for number, scene in enumerate(islice(world.scenes(0), 300)):
        rng = np.random.default_rng(number)
        content = _content(world, "understanding", scene, world.languages[0], rng)
        asked = [turn.user in DESCRIBE for turn in content.turns]
        assert 1 <= len(asked) <= 4 and not any(asked[:-1])
        lengths += [len(asked)] if asked[-1] else []
    assert 60 < len(lengths) < 150 and set(lengths) == {1, 2, 3, 4}
