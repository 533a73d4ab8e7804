"""Preview decoders: learned, written, and used by the runtime."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_edge.distill import drawn_images as drawing
from janus_edge.distill import preview as distilling
from janus_edge.distill.network import as_linear
from janus_edge.distill.preview import distill_preview
from janus_edge.distill.prompts import default_prompts
from janus_edge.export.bundle.writer import export_bundle, write_manifest
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError, OutputError, PromptError
from janus_edge.runtime.events import Image, Preview
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session

Distill = Callable[..., Path]


@pytest.fixture(scope="module", params=["checkpoint", "flow_checkpoint"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of each family, without a preview decoder."""
    checkpoint: Checkpoint = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("plain") / request.param
    export_bundle(checkpoint, folder, max_length=96, report=lambda line: None)
    return folder


@pytest.fixture
def distill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distill:
    """Distill with few images and steps; what it keeps lies in ``home``."""
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))

    def run(bundle: Path, output: Path | None = None, **more: object) -> Path:
        options = {"prompts": ["a star", "a red circle"], "num_images": 5, "num_steps": 3}
        said: list[str] = []
        return distill_preview(
            str(bundle),
            **(options | more),  # type: ignore[arg-type]
            output=output,
            report=said.append,
        )

    return run


def drawn(folder: Path) -> tuple[list[np.ndarray], Image]:
    """Return the previews and the image of a prompt."""
    request = ImageRequest(prompt="a star", seed=3, previews=True)
    events = list(Session(open_bundle(folder), num_threads=1).generate_image(request))
    (image,) = (event for event in events if isinstance(event, Image))
    return [event.pixels for event in events if isinstance(event, Preview)], image


def test_only_previews_change(plain: Path, distill: Distill, tmp_path: Path) -> None:
    made = distill(plain, tmp_path / "sharp")
    assert made == tmp_path / "sharp"
    manifest = json.loads((made / "manifest.json").read_bytes())
    assert manifest["name"] == "sharp" and "preview_decoder" in manifest["components"]
    assert "preview_decoder" not in open_bundle(plain).manifest.components
    (before, image), (after, same) = drawn(plain), drawn(made)
    assert np.array_equal(image.pixels, same.pixels)
    assert len(before) == len(after) > 1
    assert all(a.shape == b.shape for a, b in zip(before, after, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not list((tmp_path / "home/distill").iterdir())  # what it drew is not kept


def test_the_bundle_itself_is_replaced(plain: Path, distill: Distill, tmp_path: Path) -> None:
    first = distill(plain, tmp_path / "first")
    before = open_bundle(first).sha256
    assert distill(first, num_steps=5) == first
    assert open_bundle(first, check_all=True).sha256 != before
    assert {path.name for path in first.iterdir()} == {path.name for path in plain.iterdir()} | {
        "preview_decoder.onnx"
    }


def test_a_bundle_that_was_replaced_meanwhile(
    plain: Path, distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made of two models; what lies beside a bundle's files is not copied."""
    source = Path(shutil.copytree(plain, tmp_path / "source"))
    (source / "notes.txt").write_text("mine", encoding="utf-8")
    made = distill(source, tmp_path / "made")
    assert {path.name for path in made.iterdir()} == {path.name for path in plain.iterdir()} | {
        "preview_decoder.onnx"
    }
    split = distilling._split

    def replaced(*given: object, **named: object) -> object:
        manifest = json.loads((source / "manifest.json").read_bytes())
        write_manifest(manifest | {"name": "another"}, source)
        return split(*given, **named)

    monkeypatch.setattr(distilling, "_split", replaced)
    with pytest.raises(OutputError, match="was replaced meanwhile; start again"):
        distill(source, tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


def test_it_begins_as_the_linear_map(plain: Path) -> None:
    """Of all codes, where nothing is unfinished, or of a latent."""
    previews, image = drawn(plain)
    network = as_linear(distilling._network(open_bundle(plain)))
    if image.codes is None:
        return  # the preview is of an estimate, not of the latent
    made = network(torch.from_numpy(image.codes[None])).detach().numpy()[0]
    levels = (made.clip(-1, 1) + 1) * 127.5
    assert np.abs(levels.transpose(1, 2, 0) - previews[-1]).max() < 1


def test_a_latent_begins_as_the_linear_map(plain: Path) -> None:
    bundle = open_bundle(plain)
    if bundle.manifest.family != "janusflow":
        pytest.skip("of latents")
    sizes = bundle.manifest.sizes
    latent_ZHW = np.random.default_rng(0).normal(size=sizes.latent_shape).astype(np.float32)
    network = as_linear(distilling._network(bundle))
    made = network(torch.from_numpy(latent_ZHW[None])).detach().numpy()[0]
    weights_ZC = np.asarray(bundle.tables["preview"], np.float32)
    cells = np.einsum("zhw,zc->chw", latent_ZHW, weights_ZC[:-1]) + weights_ZC[-1][:, None, None]
    side = sizes.image_size // sizes.latent_size
    expected = cells.repeat(side, 1).repeat(side, 2) / 127.5 - 1
    assert np.abs(made - expected).max() < 1e-4


def test_a_stopped_run_goes_on(
    plain: Path, distill: Distill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "AT_ONCE", 2)
    wrote = drawing._write

    def full(path: Path, images: drawing.DrawnImages) -> None:
        if "000004" in path.name:
            raise OSError(28, "No space left on device")
        wrote(path, images)

    with monkeypatch.context() as apart:
        apart.setattr(drawing, "_write", full)
        with pytest.raises(OutputError, match="No space left on device; make room there"):
            distill(plain, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (kept,) = (tmp_path / "home/distill").iterdir()
    assert len(list(kept.glob("images-*.npz"))) == 2
    (kept / "images-000002.npz").write_bytes(b"PK\x03\x04 half")  # as after a crash of the disk
    again: list[str] = []
    monkeypatch.setattr(
        drawing, "_write", lambda path, found: (again.append(path.name), wrote(path, found))
    )
    distill(plain, tmp_path / "a")
    assert again == ["images-000002.npz", "images-000004.npz"]


def test_what_cannot_be_done_is_refused_first(
    plain: Path, distill: Distill, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="there: already there; name another folder"):
        distill(plain, tmp_path / "there")
    with pytest.raises(OptionError, match="images is 1; give a value from 2"):
        distill(plain, num_images=1)
    with pytest.raises(OptionError, match="steps is 0; give a value from 1"):
        distill(plain, num_steps=0)
    with pytest.raises(PromptError, match="prompt"):
        distill(plain, tmp_path / "b", prompts=["x" * 4000])
    assert not (tmp_path / "b").exists()
    assert (tmp_path / "there/notes.txt").read_text(encoding="utf-8") == "mine"


def test_of_engines_is_refused(
    plain: Path, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(plain)
    part = bundle.manifest.components["decoder"].model_copy(update={"backend": "tensorrt"})
    monkeypatch.setitem(bundle.manifest.components, "decoder", part)
    monkeypatch.setattr(distilling, "open_bundle", lambda model: bundle)
    with pytest.raises(OptionError, match="is of TensorRT engines; distill a bundle of graphs"):
        distill(plain)


def test_rows_that_are_not_drawn_are_not_seen(plain: Path) -> None:
    bundle = open_bundle(plain)
    sizes = bundle.manifest.sizes
    if bundle.manifest.family != "janus":
        pytest.skip("of codes")
    codes = torch.arange(sizes.num_codes)[None] % sizes.codebook_size
    found = distilling._unfinished(codes, torch.tensor([1]), sizes)
    assert (found[0, : sizes.code_grid] == codes[0, : sizes.code_grid]).all()
    assert (found[0, sizes.code_grid :] == sizes.codebook_size).all()


@pytest.mark.parametrize("prompts", ["a", "abc", "abcdefg", "aabaa", "ab" * 9 + "c"])
def test_each_image_has_a_prompt_and_seed_of_its_own(prompts: str) -> None:
    parts = [range(start, min(start + 16, 50)) for start in range(0, 50, 16)]
    groups = [group for part in parts for group in drawing._groups(list(prompts), part, 4)]
    assert all(len(words) == len(set(words)) <= 4 for words, _ in groups)
    images = [(word, seed) for words, seed in groups for word in words]
    assert [word for word, _ in images] == [prompts[number % len(prompts)] for number in range(50)]
    assert len(set(images)) == 50


def test_default_prompts_are_of_both_worlds() -> None:
    found = default_prompts(300)
    assert any(re.search("[가-힣]", each) for each in found)
    assert len(found) == 300 and found == default_prompts(300)
    assert any("photo of a cat" in each for each in found)


def test_the_command(cli, plain: Path, tmp_path: Path) -> None:
    words = ("distill", plain, "-o", "made", "--images", "3", "--steps", "2")
    (tmp_path / "prompts.txt").write_text("a star\n\na cross\n", encoding="utf-8")
    done = cli(*words, "--prompts", "prompts.txt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "made"
    assert "preview decoder: " in done.stdout and "the linear map" in done.stdout
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    for name, line in {"empty.txt": "is empty; give it", "none.txt": "No such file"}.items():
        done = cli(*words, "--prompts", name)
        assert done.returncode == 1 and line in done.stderr and done.stderr.count("\n") == 1
