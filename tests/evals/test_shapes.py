from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from janus_edge.evals import scoring
from janus_edge.evals.scoring import Outcome, summary
from janus_edge.evals.shapes import EXAM, prompts, questions
from janus_edge.runtime.errors import OptionError
from janus_edge.shapes.captions import CATEGORIES
from janus_edge.shapes.questions import TOPICS


def test_prompts_are_balanced_and_repeatable() -> None:
    asked = list(prompts("test", 600))
    assert Counter(c.category for _, c in asked) == dict.fromkeys(CATEGORIES, 100)
    assert Counter(c.category for held_out, c in asked if held_out) == dict.fromkeys(CATEGORIES, 50)
    assert asked == list(prompts("test", 600))
    assert asked[:60] != list(prompts("validation", 60))


def test_questions_are_balanced_and_repeatable() -> None:
    asked = list(questions("test", 600))
    assert Counter(q.topic for _, _, q in asked) == dict.fromkeys(TOPICS, 100)
    assert all(scene.held_out == held_out for held_out, scene, _ in asked)
    assert asked == list(questions("test", 600))


def test_summary_weighs_groups_alike() -> None:
    outcomes = [
        *(Outcome(group="a", held_out=i % 2 == 0, right=i < 8) for i in range(10)),
        *(Outcome(group="b", held_out=False, right=i < 1) for i in range(2)),
    ]
    scored = summary(outcomes)
    assert scored["groups"] == {"a": 0.8, "b": 0.5}
    assert scored["overall"] == 0.65
    assert scored["held_out_combinations"] == 0.8
    assert scored["trained_combinations"] == pytest.approx(5 / 7, abs=1e-4)
    assert scored["standard_error"] == pytest.approx((0.65 * 0.35 / 12) ** 0.5, abs=1e-4)


def run(
    bundle_dir: Path,
    record: Path | None = None,
    sheet: Path | None = None,
    split: str = "test",
    **settings: float | str | None,
) -> dict:
    return scoring.run(
        EXAM,
        model=str(bundle_dir),
        num_prompts=12,
        num_questions=12,
        split=split,
        settings=settings,
        record=record,
        sheet=sheet,
        report=lambda line: None,
    )


def test_a_run_is_recorded(bundle_dir: Path, tmp_path: Path) -> None:
    record, sheet = tmp_path / "r.jsonl", tmp_path / "s.png"
    record.write_text('{"schema": "older"}\n', encoding="utf-8")
    result = run(bundle_dir, record, sheet, guidance_scale=2.0, temperature=None)
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2 and lines[1] == result
    assert result["schema"] == "shapes/2"
    chosen = {"guidance_scale": 2.0, "temperature": 0.9, "top_k": 0, "top_p": 1.0}
    assert result["settings"] == chosen | {"window": 0, "guidance_end": 1.0}
    assert result["geneval"]["count"] == result["strict"]["count"] == 12
    assert result["strict"]["overall"] <= result["geneval"]["overall"]
    assert 0 <= result["answering"]["overall"] <= 1
    with Image.open(sheet) as image:
        assert image.size == (12 * 32, 32)
    again = run(bundle_dir, guidance_scale=2.0)
    for part in ("geneval", "strict", "answering"):
        assert again[part] == result[part]


def test_a_flow_is_scored_with_its_own_settings(flow_bundle_dir: Path) -> None:
    result = run(flow_bundle_dir, num_steps=2, solver="ab2", temperature=None, guidance_end=0.5)
    assert result["settings"] == {
        "guidance_scale": 2.0,
        "num_steps": 2,
        "solver": "ab2",
        "shift": 1.0,
        "guidance_start": 0.0,
        "guidance_end": 0.5,
    }
    assert result["geneval"]["count"] == result["answering"]["count"] == 12


def test_unknown_split(bundle_dir: Path) -> None:
    with pytest.raises(OptionError, match="train"):
        run(bundle_dir, split="exam")


def test_a_setting_of_another_family(bundle_dir: Path) -> None:
    with pytest.raises(OptionError, match="num_steps means nothing"):
        run(bundle_dir, num_steps=2)
