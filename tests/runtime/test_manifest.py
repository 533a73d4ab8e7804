"""Hostile and careless manifests."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from janus_edge.runtime.bundle import open_bundle, shipped_bundles
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.flow import SOLVERS
from janus_edge.runtime.manifest import FlowSampling


def rewrite(bundle_dir: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose manifest is changed and whose checksum says that this is right."""
    copy = tmp_path / "copy"
    shutil.copytree(bundle_dir, copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    raw = json.dumps(manifest).encode()
    (copy / "manifest.json").write_bytes(raw)
    (copy / "manifest.sha256").write_text(hashlib.sha256(raw).hexdigest() + "\n", encoding="utf-8")
    return copy


def test_a_rewritten_manifest_opens(bundle_dir: Path, tmp_path: Path) -> None:
    copy = rewrite(bundle_dir, tmp_path, lambda m: m["sampling"].update(temperature=0.5))
    assert open_bundle(copy).manifest.sampling.temperature == 0.5


SCALAR = {"name": "past_k", "dtype": "float32", "shape": []}

# What is changed, and what the error says; native code refuses the same (tests/native).
WRONG: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (
        lambda m: m.update(format=2),
        "format 2, but this version reads format 3; run: janus-edge export CHECKPOINT",
    ),
    (lambda m: m.update(format=4), "format 4, but this version reads format 3; update janus-edge"),
    (lambda m: m.update(format="3"), "format"),
    (lambda m: m.update(family="llava"), "family"),
    (lambda m: m.update(extra=1), "extra"),
    (lambda m: m["sizes"].update(hidden_size=0), "sizes.hidden_size"),
    (lambda m: m["sizes"].pop("num_layers"), "sizes.num_layers"),
    (lambda m: m["sampling"].update(temperature=-1), "sampling.temperature"),
    (lambda m: m["components"]["decoder"].update(file="../../etc/passwd"), "decoder.file"),
    (lambda m: m["components"]["decoder"].update(file="/etc/passwd"), "decoder.file"),
    (lambda m: m["components"]["decoder"].update(sha256="0" * 63), "decoder.sha256"),
    (lambda m: m["components"]["decoder"].update(backend="shell"), "decoder.backend"),
    (lambda m: m["components"].pop("image_head"), "no component image_head"),
    (lambda m: m["tokenizer"].update(file=".hidden"), "tokenizer.file"),
    (lambda m: m["components"]["decoder"].update(file="text_head.onnx"), "damaged"),
    (lambda m: m["components"]["decoder"].update(inputs=[]), "decoder.inputs have no cache"),
    (lambda m: m["components"]["decoder"]["inputs"].insert(0, SCALAR), "inputs have no cache"),
    (lambda m: m["components"]["decoder"]["inputs"].append(SCALAR), "inputs have no cache"),
]


@pytest.mark.parametrize(("change", "says"), WRONG)
def test_wrong_manifests_are_refused(
    bundle_dir: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    with pytest.raises(BundleError, match=says) as caught:
        open_bundle(rewrite(bundle_dir, tmp_path, change))
    assert len(str(caught.value).splitlines()) == 1


def test_a_tokenizer_without_special_tokens_is_refused(bundle_dir: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((bundle_dir / "tokenizer.json").read_text(encoding="utf-8"))
    for token in tokenizer["added_tokens"]:
        token["content"] = token["content"].replace("<end_of_image>", "<other>")
    raw = json.dumps(tokenizer)
    raw = raw.replace('"<end_of_image>"', '"<other>"')
    sha256 = hashlib.sha256(raw.encode()).hexdigest()
    copy = rewrite(bundle_dir, tmp_path, lambda m: m["tokenizer"].update(sha256=sha256))
    (copy / "tokenizer.json").write_text(raw, encoding="utf-8")
    with pytest.raises(BundleError, match="end_of_image"):
        open_bundle(copy)


def test_shipped_bundles_open_by_name() -> None:
    assert "tiny-janus" in shipped_bundles()
    for name in shipped_bundles():
        assert open_bundle(name).manifest.name == name


def test_a_manifest_may_name_every_solver() -> None:
    assert get_args(FlowSampling.model_fields["solver"].annotation) == tuple(SOLVERS)
