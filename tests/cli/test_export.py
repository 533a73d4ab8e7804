from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


def test_exports_inspects_draws(cli, checkpoint_dir: Path, tmp_path: Path) -> None:
    done = cli("export", checkpoint_dir, "mine", "--max-length", "90")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    shown = cli("inspect", "mine").stdout
    for word in ("decoder", "image_decoder", "max_length 90", "guidance_scale 3.0", "code_grid 4"):
        assert word in shown
    assert cli("generate", "a star", "--model", "mine").returncode == 0


def test_exists_already(cli, checkpoint_dir: Path, bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("x", encoding="utf-8")
    for extra in ([], ["--replace"]):  # replaces bundles, never other folders
        assert "already there" in cli.fails("export", checkpoint_dir, "there", *extra)
    assert (tmp_path / "there" / "thesis.txt").read_text(encoding="utf-8") == "x"
    shutil.copytree(bundle_dir, tmp_path / "old")
    assert "already there" in cli.fails("export", checkpoint_dir, "old")
    assert cli("export", checkpoint_dir, "old", "--replace").returncode == 0


def test_max_length_without_room(cli, checkpoint_dir: Path) -> None:
    assert "max_length 20" in cli.fails("export", checkpoint_dir, "x", "--max-length", "20")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", None, "config.json: No such file"),
        ("config.json", "{", "config.json: not a config that can be read"),
        ("config.json", '{"model": {"vision": {"depth": 3}}}', "config.json"),
        ("model.safetensors", None, "no weights; looked for"),
        ("model.safetensors", "junk", "model.safetensors: damaged"),
        ("tokenizer.json", None, "tokenizer.json: No such file"),
        ("samples.npy", "junk", "samples.npy: not an array"),
    ],
)
def test_damaged_checkpoint(
    cli, checkpoint_dir: Path, tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint_dir, copy)
    (copy / name).unlink(missing_ok=True)
    if content is not None:
        (copy / name).write_text(content, encoding="utf-8")
    assert says in cli.fails("export", copy, "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_named(cli, checkpoint_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint_dir, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["model"]["language"]["num_hidden_layers"] = 3
    config["model"]["vision"]["width"] = 26
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    line = cli.fails("export", copy, "out")
    assert "missing language_model.model.layers.2.self_attn.q_proj.weight" in line
    assert "vision_model.vision_tower.blocks.0.attn.proj.bias is [24], not [26]" in line
    assert "more" in line and len(line) < 2500
