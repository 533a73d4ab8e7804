"""Check how products are divided: by an estimate from the compiled code, or by time."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from janus_edge.bench.programs.kernels import tune
from janus_edge.bench.programs.kernels.gpus import GPUS, DataSheet
from janus_edge.kernels.resources import Resources

CODE = Resources(registers=64, spilled=0, instructions=400, in_loop=200, products=8, code="")


def entry_of(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "threads": 128, "shared_bytes": 16384, "constants": {"BLOCK": 32}, **more}


def product_of(name: str) -> tune.Product:
    return next(each for each in tune.products() if each.spec.name == name)


def test_the_products_read_what_a_step_reads() -> None:
    """24 layers of Janus-Pro-1B and its image head: 0.69 GB with scales."""
    layers = sum(product_of(name).num_bytes for name in ("qkv", "output", "gate_up", "down"))
    heads = sum(product_of(name).num_bytes for name in ("head_hidden", "head_logits"))
    assert 24 * layers + heads == pytest.approx(0.6977e9, rel=1e-3)


def test_each_bound_counts() -> None:
    product = product_of("qkv")

    def us(
        code: Resources = CODE, stages: int = 3, gpu: DataSheet = GPUS[90], **more: Any
    ) -> float:
        entry = entry_of("qkv", **more)
        made = tune.Compiled(entry=entry, needs=code, stages=stages, folder=Path())
        return tune.estimate_us(gpu, product, made)

    plain = us()
    assert us(dataclasses.replace(CODE, in_loop=2000, instructions=2200)) > 3 * plain
    assert us(stages=2) > plain  # one turn's loads under way
    assert us(shared_bytes=200 * 1024) > plain  # one program at once on a multiprocessor
    slow = dataclasses.replace(GPUS[90], bandwidth=100)
    assert us(gpu=slow) == pytest.approx(product.num_bytes / 100e3)


def test_the_fastest_configuration_is_chosen_and_spills_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[dict[str, Any]] = []

    def compile_kernel(spec: Any, target: int, folder: Path, *, use_table: bool) -> dict[str, Any]:
        assert not use_table and target == 80
        config = {"BLOCK": spec.constants["BLOCK"], "warps": spec.num_warps}
        compiled.append(config | {"stages": spec.options["num_stages"]})
        return entry_of(spec.name, file="f", constants={"BLOCK": config["BLOCK"]})

    def resources(_path: Path) -> Resources:
        return dataclasses.replace(CODE, spilled=int(compiled[-1]["BLOCK"] == 64))

    def cost(*given: Any) -> float:
        config = compiled[-1]
        assert config["BLOCK"] != 64
        return abs(config["BLOCK"] - 60) + abs(config["warps"] - 2) + abs(config["stages"] - 4) / 10

    monkeypatch.setattr(tune, "compile_kernel", compile_kernel)
    monkeypatch.setattr(tune, "resources", resources)
    assert tune._chosen(product_of("qkv"), 80, cost) == {"block": 32, "warps": 2, "stages": 4}
    assert "sm_80 qkv: " in capsys.readouterr().out


def test_many_rows_take_programs_by_tiles_and_other_configurations() -> None:
    few, many = product_of("qkv"), product_of("qkv_many")
    assert many.programs(64) == 10 * few.programs(64)  # 640 rows in tiles of 64
    assert min(many.choices.warps) >= max(few.choices.warps)
    assert many.num_bytes == few.num_bytes


def test_an_estimate_does_not_replace_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "tuning.json"
    timed = {"by": "NVIDIA H200", "kernels": {"qkv": {"block": 16, "warps": 1, "stages": 2}}}
    table.write_text(json.dumps({"sm_90": timed}), encoding="utf-8")
    monkeypatch.setattr(tune, "TABLE", table)
    monkeypatch.setattr(tune, "_chosen", lambda *given: {"block": 32, "warps": 4, "stages": 3})
    monkeypatch.setattr("sys.argv", ["tune"])
    tune.main()
    made = json.loads(table.read_text(encoding="utf-8"))
    assert made["sm_90"] == timed and len(made) == len(tune.TARGETS)
    assert made["sm_80"]["by"] == "compiled code, for A100"
    assert "qkv" in made["sm_80"]["kernels"] and "qkv_many" not in made["sm_80"]["kernels"]
