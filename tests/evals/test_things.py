from __future__ import annotations

from collections import Counter
from pathlib import Path

from janus_edge.evals import scoring
from janus_edge.evals.things import EXAM, judge, prompts, questions
from janus_edge.things.captions import CATEGORIES
from janus_edge.things.questions import TOPICS
from janus_edge.things.scenes import render, scenes


def test_prompts_are_balanced_and_repeatable() -> None:
    asked = list(prompts("test", 240))
    assert Counter(c.category for _, c in asked) == dict.fromkeys(CATEGORIES, 40)
    assert Counter(held_out for held_out, _ in asked) == {True: 120, False: 120}
    korean = Counter(c.category for _, c in asked if c.language == "korean")
    assert korean == dict.fromkeys(CATEGORIES, 20)
    assert asked == list(prompts("test", 240))
    assert asked[:24] != list(prompts("validation", 24))


def test_questions_are_balanced_and_repeatable() -> None:
    asked = list(questions("test", 280))
    assert Counter(q.topic for _, _, q in asked) == dict.fromkeys(TOPICS, 40)
    assert Counter(q.language for _, _, q in asked) == {"english": 140, "korean": 140}
    assert all(scene.held_out == held_out for held_out, scene, _ in asked)


def test_true_images_are_right_and_others_are_not() -> None:
    asked = [(held_out, c) for held_out, c in prompts("test", 12)]
    found = {held_out: scenes("test", held_out=held_out) for held_out in (True, False)}
    kinds = {"counting": "repeated", "two_things": "pair", "position": "pair"}
    for held_out, wanted in asked:
        kind = kinds.get(wanted.category, "single")
        scene = next(s for s in found[held_out] if s.kind == kind)
        rules = judge(render(scene), wanted)
        assert set(rules) >= {"geneval", "strict"}
        assert all(rules.values()), wanted
        assert not judge(render(next(scenes("validation", 77))), wanted)["strict"]


def test_a_bundle_is_scored(bundle_dir: Path) -> None:
    result = scoring.run(
        EXAM,
        model=str(bundle_dir),
        num_prompts=24,
        num_questions=28,
        split="test",
        settings={},
        record=None,
        sheet=None,
        report=lambda line: None,
    )
    assert result["schema"] == "things/3"
    assert result["geneval"]["count"] == 24 and result["top1"]["count"] == 4
    assert set(result["answering"]["languages"]) == {"english", "korean"}
