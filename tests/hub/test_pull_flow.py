"""Pulling a JanusFlow, whose autoencoder is mostly published in a repository of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from janus_edge.cli.app import app
from janus_edge.export.bundle.autoencoder import VAE_REPO
from janus_edge.export.bundle.writer import export_folder
from janus_edge.hub.checkpoint import AUTOENCODER, needed_files
from janus_edge.model.tensors import CheckpointError
from janus_edge.runtime.errors import OptionError, PullError
from tests.hub.conftest import WEIGHTS, Hub, Repo, contents, line_of

VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def beside(hub: Hub, repo: Repo, flow_dir: Path) -> Repo:
    """The hub's repository is a JanusFlow; a second one, this, is its autoencoder's."""
    repo.commit("main", contents(flow_dir))
    decoys = ("diffusion_pytorch_model.bin", "sdxl_vae.safetensors", "README.md")
    return hub.add(VAE_REPO, contents(flow_dir / "vae") | dict.fromkeys(decoys, b"x"))


@pytest.mark.parametrize("vae", [None, "tests/another-vae"])
def test_a_janusflow_comes_with_its_autoencoder(
    beside: Repo, fetch_both, flow_dir: Path, vae: str | None
) -> None:
    beside.name = vae or VAE_REPO
    lines: list[str] = []
    folder, autoencoder = fetch_both(vae=vae, report=lines.append)
    assert contents(folder) == contents(flow_dir)
    assert contents(autoencoder) == contents(flow_dir / "vae")
    assert beside.files_asked() == {"config.json", VAE_WEIGHTS}
    assert beside.name in lines[0] and "2 of 5 files" in lines[-2] and str(autoencoder) in lines[-1]


def test_a_checkpoints_own_autoencoder(
    repo: Repo, beside: Repo, fetch_both, flow_dir: Path
) -> None:
    own = {f"vae/{name}": content for name, content in beside.newest.items()}
    repo.commit("main", repo.newest | own)
    folder, autoencoder = fetch_both()
    assert autoencoder == folder / "vae" and contents(autoencoder) == contents(flow_dir / "vae")
    assert not beside.asked
    repo.asked.clear()
    fetch_both(vae=VAE_REPO)  # comes before it
    assert beside.files_asked() and not repo.files_asked()


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a.bin", "a.fp16.safetensors", "a.safetensors", "a.fp16.bin"], "a.safetensors"),
        (["a.bin", "a.fp16.safetensors", "sdxl_vae.safetensors"], "a.fp16.safetensors"),
        (["a.fp16.bin", "a.bin"], "a.bin"),
    ],
)
def test_one_file_of_an_autoencoders_weights(names: list[str], wanted: str) -> None:
    found = [f"vae/{name}".replace("a.", "diffusion_pytorch_model.") for name in names]
    needed = needed_files([*found, "vae/config.json"], "a/b", AUTOENCODER, "vae/")
    assert needed == ["vae/config.json", wanted.replace("a.", "vae/diffusion_pytorch_model.")]
    line = line_of(PullError, needed_files, ["config.json"], "a/b", AUTOENCODER)
    assert line.startswith("a/b: has no weights") and "--vae" in line


@pytest.mark.parametrize(
    ("vae", "harm", "says"),
    [
        ("tests/none", {}, "tests/none: no such repository at http"),
        ("./none", {}, "./none: no such folder or file; give --vae one, or owner/name"),
        (None, {"name": "a/mirror"}, f"{VAE_REPO}: no such repository at http"),
        (None, {"token": "hf_secret"}, f"{VAE_REPO}: gated"),
        (None, {"answer": (500, "", "oops")}, f"{VAE_REPO}: http"),
        (None, {"flipped": "config.json"}, f"{VAE_REPO}: config.json is damaged"),
    ],
)
def test_an_autoencoder_that_cannot_be_had(
    repo: Repo, beside: Repo, fetch_both, vae: str | None, harm: dict[str, object], says: str
) -> None:
    for name, value in harm.items():
        setattr(beside, name, value)
    error = OptionError if vae == "./none" else PullError
    assert line_of(error, fetch_both, vae=vae).startswith(says)
    assert WEIGHTS not in repo.files_asked()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "VQModel"}, '_class_name is "VQModel"'),
        ({"latent_channels": 16}, "16 latent channels"),
        ({"block_out_channels": 8}, "not a list"),
        (None, ""),
    ],
)
def test_another_autoencoder_is_refused_before_any_weights(
    repo: Repo,
    beside: Repo,
    fetch_both,
    tmp_path: Path,
    change: dict[str, object] | None,
    says: str,
) -> None:
    config = json.loads(beside.newest["config.json"])
    content = json.dumps([] if change is None else config | change)
    beside.commit("main", beside.newest | {"config.json": content.encode()})
    line = line_of(PullError, fetch_both)
    assert line.startswith(f"{VAE_REPO}: config.json: ") and says in line and "--vae" in line
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    line = line_of(CheckpointError, fetch_both, vae=str(tmp_path))
    assert line.startswith(f"{tmp_path / 'config.json'}: ") and says in line
    assert not {WEIGHTS, VAE_WEIGHTS} & (repo.files_asked() | beside.files_asked())


def test_an_autoencoder_arrives_whole(repo: Repo, beside: Repo, fetch_both) -> None:
    beside.cut(20_500, 0, 0, 0, is_reset=True)
    line = line_of(PullError, fetch_both)
    assert line.startswith(VAE_REPO) and "goes on where it stopped" in line
    repo.asked.clear()
    beside.asked.clear()
    beside.flipped = VAE_WEIGHTS
    assert f"{VAE_REPO}: {VAE_WEIGHTS} is damaged" in line_of(PullError, fetch_both)
    assert beside.ranges() == ["bytes=20500-"] and not repo.files_asked()
    beside.flipped = ""
    assert (fetch_both()[1] / VAE_WEIGHTS).read_bytes() == beside.newest[VAE_WEIGHTS]


def test_an_autoencoder_in_a_folder(
    repo: Repo, beside: Repo, fetch_both, flow_dir: Path, tmp_path: Path
) -> None:
    assert "config.json: No such file" in line_of(CheckpointError, fetch_both, vae=str(tmp_path))
    (tmp_path / "config.json").write_bytes(beside.newest["config.json"])
    assert "no weights; looked for" in line_of(CheckpointError, fetch_both, vae=str(tmp_path))
    assert WEIGHTS not in repo.files_asked()
    assert fetch_both(vae=str(flow_dir / "vae"))[1] == flow_dir / "vae"
    assert not beside.asked


def test_a_janus_takes_no_autoencoder(
    repo: Repo, fetch, checkpoint_dir: Path, flow_dir: Path, tmp_path: Path
) -> None:
    vae, out = flow_dir / "vae", tmp_path / "out"
    for named in (VAE_REPO, str(vae)):
        assert "is no JanusFlow" in line_of(OptionError, fetch, vae=named)
    assert WEIGHTS not in repo.files_asked()
    line = line_of(OptionError, export_folder, checkpoint_dir, out, vae=vae, report=[].append)
    assert f"{checkpoint_dir} is no JanusFlow" in line and "leave out --vae" in line
    assert not out.exists()


def test_export_passes_the_autoencoder_on(
    flow_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "janus_edge.export.bundle.writer.export_folder",
        lambda *words, **rest: calls.append((words, rest["vae"], rest["roles"])),
    )
    for words, vae in (([], None), (["--vae", str(tmp_path)], tmp_path)):
        done = CliRunner().invoke(app, ["export", str(flow_dir), "out", *words])
        assert done.exit_code == 0, done.output
        assert calls.pop() == ((flow_dir, Path("out")), vae, None)
    CliRunner().invoke(app, ["export", str(flow_dir), "out", "--roles", "janus-pro"])
    assert calls.pop() == ((flow_dir, Path("out")), None, "janus-pro")


def test_a_pulled_janusflow_is_found_by_name(repo: Repo, beside: Repo, home: Path, cli) -> None:
    beside.name = "tests/another-vae"
    done = cli("pull", repo.name, "--vae", beside.name, "--name", "flow")
    assert done.returncode == 0, done.stderr
    assert "flow: janusflow" in cli("inspect", "flow").stdout
    assert beside.files_asked() == {"config.json", VAE_WEIGHTS}
