"""bench/programs/flow_settings.py and flow_plot.py: what is counted, the rule of the default."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.flow import FlowSettings
from janus_edge.runtime.session import Session

BENCH = Path(__file__).parent.parent / "bench" / "programs"


def program(name: str) -> ModuleType:
    spec = spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


flow_settings, flow_plot = program("flow_settings"), program("flow_plot")


def line(
    rows: int,
    verdicts: str,
    *,
    solver: str = "ab2",
    steps: int = 8,
    shift: float = 1.0,
    end: float = 1.0,
    scale: float = 2.0,
    error: float = 0.1,
) -> dict[str, Any]:
    score = round(verdicts.count("1") / len(verdicts), 4)
    return {
        "bundle_sha256": "b",
        "split": "validation",
        "prompts": len(verdicts),
        "settings": {
            "guidance_scale": scale,
            "num_steps": steps,
            "solver": solver,
            "shift": shift,
            "guidance_start": 0.0,
            "guidance_end": end,
        },
        "velocity_rows": rows,
        "ms": rows * 7.5,
        "latent_error": error,
        "geneval": {"overall": score},
        "strict": {"overall": score},
        "verdicts": {"geneval": verdicts},
    }


def right(count: int) -> str:
    """So many of 100 images."""
    return "1" * count + "0" * (100 - count)


EULER_30 = line(60, right(80), solver="euler", steps=30)


@pytest.mark.parametrize(
    ("others", "wanted"),
    [
        ([], 0),
        ([line(16, right(79))], 1),  # one point below is near enough
        ([line(16, right(78))], 0),
        ([line(16, right(85)), line(12, right(79))], 2),  # faster, not better
        ([line(16, right(79)), line(16, right(80), shift=2)], 2),
        ([line(16, right(80)), line(16, right(80), shift=2, error=0.05)], 2),
        ([line(12, right(80), end=0.5)], 1),
        # of several guidance scales the best Euler 30 sets the bar
        ([line(60, right(85), solver="euler", steps=30, scale=3), line(16, right(80))], 1),
        # other settings of 30 Euler steps do not
        ([line(60, right(90), solver="euler", steps=30, shift=2), line(16, right(79))], 2),
        ([line(45, right(90), solver="euler", steps=30, end=0.5), line(16, right(79))], 2),
    ],
)
def test_the_default(others: list[dict[str, Any]], wanted: int) -> None:
    records = [EULER_30, *others]
    assert flow_plot.default_of(records) is records[wanted]


def test_no_default_without_the_published_setting() -> None:
    with pytest.raises(ValueError, match="30 steps"):
        flow_plot.default_of([line(16, right(80))])


def test_settings_are_compared_image_by_image() -> None:
    gain, error = flow_plot.difference(line(16, "1100"), line(60, "1010"))
    assert gain == 0 and error == pytest.approx((2 / 3) ** 0.5 / 2)
    assert flow_plot.difference(EULER_30, EULER_30) == (0, 0)


def test_the_newest_run() -> None:
    older, other = line(16, right(70)), line(16, right(70)) | {"bundle_sha256": "a"}
    newer, fewer = line(16, right(75)), line(16, "1110")
    lines = [json.dumps(each) for each in (older, other, fewer, EULER_30, newer)]
    assert sorted(flow_plot.newest_run(lines), key=flow_plot.score) == [newer, EULER_30]
    with pytest.raises(ValueError, match="no lines"):
        flow_plot.newest_run([])


def test_the_tables() -> None:
    part = line(12, right(82), end=0.5)
    records = [EULER_30, line(16, right(80)), line(16, right(77), shift=2), part]
    assert flow_plot.shift_table(records).splitlines() == [
        "| solver | steps | rows | ms | shift 1 | shift 2 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| Euler | 30 | 60 | 450 | 0.800 (0.1) |  |",
        "| AB2 | 8 | 16 | 120 | 0.800 (0.1) | 0.770 (0.1) |",
    ]
    rows = flow_plot.interval_table(records, EULER_30, part).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| **AB2 8**", "| AB2 8", "| Euler 30"]
    assert "**0 to 0.5** | **12**" in rows[0] and "**+0.020 ± 0.014**" in rows[0]


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 20),
        ({"solver": "ab2"}, 20),
        ({"solver": "heun"}, 40),
        ({"guidance_scale": 1.0}, 10),
        ({"guidance_end": 0.5}, 15),
        ({"guidance_start": 0.5, "shift": 3.0}, 12),  # 2 of 10 steps begin there
        ({"solver": "heun", "guidance_end": 0.5}, 30),
    ],
)
def test_rows_are_counted(changes: dict[str, Any], rows: int) -> None:
    base = {"guidance_scale": 2.0, "num_steps": 10, "solver": "euler"}
    assert flow_settings.velocity_rows(FlowSettings(**(base | changes))) == rows


def test_each_setting_is_measured_once() -> None:
    settings = list(flow_settings.table(2.0))
    assert len(settings) == len(set(settings))
    published = FlowSettings(guidance_scale=2.0, num_steps=30, solver="euler")
    assert settings[0] == published
    assert all((s.guidance_start, s.guidance_end) == (0, 1) for s in flow_settings.table(1.0))


def test_a_record_goes_on_where_it_stopped(
    flow_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def table(scale: float, steps: tuple[int, ...]) -> list[FlowSettings]:
        return [FlowSettings(guidance_scale=scale, num_steps=n, solver="euler") for n in steps]

    options = argparse.Namespace(
        record=tmp_path / "r.jsonl",
        prompts=6,
        split="test",
        guidance_scale=None,
        threads=1,
        part=(1, 1),
    )
    monkeypatch.setattr(flow_settings, "ERROR_PROMPTS", 2)
    monkeypatch.setattr(flow_settings, "REFERENCE", {"num_steps": 7})
    said: list[str] = []
    for steps in ((3,), (7, 3)):
        monkeypatch.setattr(flow_settings, "table", lambda scale, steps=steps: table(scale, steps))
        flow_settings.measure_all(flow_session, options, said.append)
    lines = [json.loads(each) for each in options.record.read_text(encoding="utf-8").splitlines()]
    assert [each["settings"]["num_steps"] for each in lines] == [3, 7] and len(said) == 4
    first, reference = lines
    assert first["latent_error"] > 0 and reference["latent_error"] == 0
    assert first["velocity_rows"] == 6 and first["settings"]["guidance_scale"] == 2.0
    assert first["geneval"]["count"] == len(first["verdicts"]["strict"]) == 6
    assert flow_plot.newest_run(options.record.read_text(encoding="utf-8").splitlines()) == lines


def test_processes_share_the_settings(
    flow_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_settings, "ERROR_PROMPTS", 1)
    monkeypatch.setattr(flow_settings, "REFERENCE", {"num_steps": 4})
    steps = [FlowSettings(guidance_scale=2.0, num_steps=n, solver="euler") for n in (1, 2, 3)]
    monkeypatch.setattr(flow_settings, "table", lambda scale: steps)
    found = []
    for part in (1, 2):
        record = tmp_path / f"{part}.jsonl"
        options = argparse.Namespace(
            record=record, prompts=6, split="test", guidance_scale=None, threads=1, part=(part, 2)
        )
        flow_settings.measure_all(flow_session, options, lambda line: None)
        lines = [json.loads(each) for each in record.read_text(encoding="utf-8").splitlines()]
        found.append([each["settings"]["num_steps"] for each in lines])
    assert found == [[1, 3], [2]]


def test_a_bundle_of_codes_is_refused(session: Session, tmp_path: Path) -> None:
    options = argparse.Namespace(record=tmp_path / "r", guidance_scale=None)
    with pytest.raises(OptionError, match="num_steps means nothing"):
        flow_settings.measure_all(session, options, print)
