from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from janus_edge.bench.latency import Limits, Plan, measure, summary
from janus_edge.bench.process import Run, Worker
from janus_edge.bench.workloads import Opened, Settings, open_workloads
from janus_edge.diagnostics import machine
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import BundleError, OptionError
from janus_edge.runtime.events import Finished, Pass
from janus_edge.runtime.session import Session

OPENED = Opened(
    folder="b",
    name="b",
    family="janus",
    sha256="",
    weights="int4",
    device="cpu",
    backend="onnxruntime",
    uses_cpu_kernels=False,
    instructions=None,
    operations={"draw": {"image_decoder": 4e9}, "ask": {}},
    open_ms=1.0,
    prompt_tokens=5,
    question_tokens=70,
    codes=3,
    images_at_once=1,
    step_bytes={"draw": 10**6, "ask": None},
)

LIMITS = Limits(bandwidth=1e9, gops=500.0)


def _run(*ends: float, total: float) -> Run:
    return Run(total_ms=total, step_ends_ms=ends, component_ms={"decoder": total / 2})


def test_the_share_of_the_arithmetic() -> None:
    spent = {"decoder": 10.0, "image_decoder": 20.0}
    runs = [Run(total_ms=30, step_ends_ms=(5, 10), component_ms=spent)]
    ours = dataclasses.replace(OPENED, uses_cpu_kernels=True, instructions="avx2")
    found = summary("draw", runs, ours, Settings(), LIMITS)
    assert found["peak_fraction"] == {"image_decoder": 0.4}  # 200e9 of 500e9 a second
    assert "peak_fraction" not in summary("draw", runs, OPENED, Settings(), LIMITS)


def test_what_runs_come_to() -> None:
    runs = [_run(10, 14, 16, total=20), _run(12, 16, 18, total=40), _run(11, 15, 17, total=30)]
    found = summary("draw", runs, OPENED, Settings(batch=2), LIMITS)
    assert found["ttft_ms"] == {"p20": 10.4, "p50": 11.0, "p80": 11.6}
    assert found["itl_ms"]["p50"] == 3.0  # of gaps 4 and 2
    assert found["image_ms"]["p50"] == 15.0  # two at once in 30
    assert found["steps_a_second"] == pytest.approx(2 * 3 / 0.030)
    assert found["bandwidth_fraction"] == pytest.approx(1e6 / 3e-3 / 1e9, abs=1e-3)
    assert found["component_ms"] == {"decoder": 15.0, "rest": 15.0}


def test_what_passes_come_to() -> None:
    """Count and time the passes of two images drawn together, in two runs."""
    passes = (Pass(width=1, codes=2, took_ms=4.0), Pass(width=4, codes=7, took_ms=6.0))
    later = (Pass(width=4, codes=4, took_ms=8.0), Pass(width=4, codes=5, took_ms=9.0))
    runs = [dataclasses.replace(_run(1, 2, total=3), passes=each) for each in (passes, later)]
    both = dataclasses.replace(OPENED, images_at_once=2)
    found = summary("draw", runs, both, Settings(batch=2), LIMITS)
    assert found["codes_a_pass"] == 18 / 4 / 2
    assert found["passes_of_width"] == {"1": 1, "4": 3}
    assert found["pass_ms"] == {"1": 4.0, "4": 8.0}
    alone = summary("draw", [_run(1, 2, total=3)], OPENED, Settings(), LIMITS)
    assert "codes_a_pass" not in alone  # a GPU's own loop has none


def test_what_a_step_costs_as_an_image_grows() -> None:
    ends = np.cumsum([5, *np.repeat(np.arange(10.0), 2)])
    runs = [_run(*ends, total=1), _run(*(ends * 3), total=1), _run(*(ends * 2), total=1)]
    found = summary("draw", runs, OPENED, Settings(), LIMITS)
    assert found["itl_tenths_ms"] == [2.0 * i for i in range(10)]
    assert (
        summary("draw", [_run(1, 2, total=3)], OPENED, Settings(), LIMITS)["itl_tenths_ms"] is None
    )


def test_an_answer_of_one_token_has_no_itl() -> None:
    found = summary("ask", [_run(10, total=11)], OPENED, Settings(), LIMITS)
    assert found["itl_ms"] is None and "bandwidth_fraction" not in found and "image_ms" not in found


def test_a_worker_counts_every_code_and_component(bundle_dir: Path) -> None:
    worker = Worker(
        open_workloads, str(bundle_dir), Settings(num_threads=1, batch=2, prompt_length=20)
    )
    sizes = open_bundle(bundle_dir).manifest.sizes
    drawn, asked = worker.run("draw"), worker.run("ask")
    assert len(drawn.step_ends_ms) == sizes.num_codes
    assert (np.diff(drawn.step_ends_ms) > 0).all()
    assert set(drawn.component_ms) == {"decoder", "image_head", "image_decoder"}
    assert sum(drawn.component_ms.values()) < drawn.total_ms
    assert {"decoder", "vision_encoder", "vision_aligner"} <= set(asked.component_ms)
    assert "image_decoder" not in asked.component_ms
    again = worker.run("ask")  # computes all of its prompt again
    assert again.component_ms.keys() == asked.component_ms.keys()
    assert 20 <= worker.opened.prompt_tokens < 30
    assert (worker.opened.codes, worker.opened.images_at_once) == (sizes.num_codes, 2)
    assert worker.close() > 10e6


def test_a_component_that_some_runs_lack() -> None:
    first = Run(total_ms=3, step_ends_ms=(1, 2), component_ms={"decoder": 1.0, "vision": 2.0})
    later = Run(total_ms=1, step_ends_ms=(1, 2), component_ms={"decoder": 1.0})
    found = summary("ask", [first, later, later], OPENED, Settings(), LIMITS)
    assert found["component_ms"] == {"decoder": 1.0, "vision": 0.0, "rest": 0.0}


def test_more_images_than_a_batch_has_rows_for(bundle_dir: Path) -> None:
    """16 images are two batches of 8; bytes are those of one."""
    worker = Worker(open_workloads, str(bundle_dir), Settings(num_threads=1, batch=16))
    eight = Worker(open_workloads, str(bundle_dir), Settings(num_threads=1, batch=8))
    assert worker.opened.images_at_once == eight.opened.images_at_once == 8
    assert worker.opened.step_bytes == eight.opened.step_bytes
    run = worker.run("draw")
    found = summary("draw", [run], worker.opened, Settings(batch=16, parallel=1), LIMITS)
    made = 16 * open_bundle(bundle_dir).manifest.sizes.num_codes
    assert found["steps_a_second"] == pytest.approx(made / run.total_ms * 1e3, rel=1e-3)
    assert found["codes_a_pass"] >= 1
    worker.close()
    eight.close()


def test_an_answer_of_no_token_is_one_line(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, workloads = open_workloads(str(bundle_dir), Settings(num_threads=1))
    nothing = Finished(timings_ms={"total": 1.0}, step_ends_ms=())
    monkeypatch.setattr(Session, "ask", lambda session, request: [nothing])
    with pytest.raises(OptionError, match="answers with nothing"):
        workloads["ask"]()


def test_more_positions_and_rows_are_more_bytes(bundle_dir: Path) -> None:
    found = []
    for settings in (Settings(), Settings(prompt_length=30), Settings(batch=4)):
        worker = Worker(open_workloads, str(bundle_dir), settings)
        found.append(worker.opened.step_bytes["draw"])
        worker.close()
    short, long, many = found
    assert short < long < many
    manifest = open_bundle(bundle_dir).manifest
    files = [bundle_dir / manifest.components[n].file for n in ("decoder", "image_head")]
    assert manifest.components["decoder"].weights == "float16"  # widened as it is opened
    assert short > 2 * sum(path.stat().st_size for path in files)


def test_what_cannot_be_opened_is_raised_here(tmp_path: Path) -> None:
    plan = Plan(workloads=("draw",), num_runs=1, num_warmups=0, settings=Settings())
    with pytest.raises(BundleError, match="no such bundle"):
        measure((str(tmp_path / "none"),), plan, lambda line: None)


def test_the_machine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "BUFFER_BYTES", 2**22)
    monkeypatch.setattr(machine, "_CPU", tmp_path / "cpu")
    monkeypatch.setattr(machine, "_POWER", tmp_path / "power")
    assert min(machine.read_rates(1)) > 1e8
    assert machine.power_state() == "governor unknown; supply unknown"
    governor = tmp_path / "cpu/cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n", encoding="utf-8")
    (tmp_path / "power/AC").mkdir(parents=True)
    (tmp_path / "power/AC/online").write_text("0\n", encoding="utf-8")
    assert machine.power_state() == "governor powersave; supply battery"
    assert str(os.cpu_count()) in machine.describe()["machine"]
