from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.janus import Janus, guide, unconditional
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.engines import Engines

PROGRAM = Path(__file__).parents[1] / "bench" / "programs" / "quantization.py"
_spec = importlib.util.spec_from_file_location("quantization_program", PROGRAM)
assert _spec is not None and _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)


def test_divergence() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    found = program.divergence(np.log(p)[None] + 3, np.log(q)[None], 1.0)
    assert found == pytest.approx([(p * np.log(p / q)).sum()])
    assert program.divergence(np.log(p)[None], np.log(p)[None], 0.5) == pytest.approx([0])


def test_logits_are_those_of_the_whole_sequence(checkpoint: Checkpoint, bundle_dir: Path) -> None:
    model, bundle = checkpoint.model, open_bundle(bundle_dir)
    assert isinstance(model, Janus)
    codes_N = np.random.default_rng(0).integers(0, 40, model.config.num_codes)
    found_NV = program.guided_logits(Engines(bundle, 1), "a star", codes_N, 3.0)
    ids_1T = torch.from_numpy(bundle.encoder.generation("a star"))[None]
    rows = torch.cat([ids_1T, unconditional(ids_1T, bundle.encoder.ids["pad"])])
    codes = torch.from_numpy(codes_N[:-1])[None].expand(2, -1)
    with torch.no_grad():
        x = torch.cat([model.embed_text(rows), model.embed_codes(codes)], dim=1)
        logits = model.image_logits(model.hidden(x)[:, ids_1T.shape[1] - 1 :])
    expected = guide(logits[0], logits[1], 3.0).numpy()
    assert np.allclose(found_NV, expected, atol=1e-3 * np.abs(expected).max())


def test_a_line_a_bundle_is_recorded(
    checkpoint: Checkpoint, bundle_dir: Path, tmp_path: Path
) -> None:
    export_bundle(
        checkpoint, tmp_path / "int4", max_length=96, quantize="int4", report=lambda line: None
    )
    record = tmp_path / "record.jsonl"
    words = [str(bundle_dir), str(bundle_dir), str(tmp_path / "int4")]
    subprocess.run(
        [sys.executable, PROGRAM, *words, "--record", record, "--prompts", "3"], check=True
    )
    same, rounded = (json.loads(line) for line in record.read_text(encoding="utf-8").splitlines())
    assert same["kl_rest"] == same["kl_largest"] == 0 and same["same_codes"] == 1
    assert same["weights"] == {}
    assert 0 < rounded["kl_rest"] <= rounded["kl_largest"] and rounded["bundle"] == "int4"
    assert rounded["weights"]["decoder"] == "int4, blocks of 128"
