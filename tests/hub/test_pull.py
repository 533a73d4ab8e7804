from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from janus_edge.export.quantization.fastest import fastest_preset
from janus_edge.hub.checkpoint import CHECKPOINT, needed_files
from janus_edge.hub.pull import pull
from janus_edge.runtime.errors import JanusEdgeError, OptionError, OutputError, PullError
from tests.hub.conftest import WEIGHTS, Hub, Repo, line_of

NEEDED = {"config.json", "tokenizer.json", WEIGHTS}


def test_downloads_the_needed_files_only(repo: Repo, fetch) -> None:
    lines: list[str] = []
    folder = fetch(report=lines.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: repo.newest[name] for name in NEEDED
    }
    assert repo.files_asked() == NEEDED
    assert repo.branches["main"] in lines[0] and "3 of 8 files" in lines[0]
    assert str(folder) in lines[-1]
    repo.asked.clear()
    assert fetch() == folder
    assert [asked.path.split("?")[0] for asked in repo.asked] == [f"/api/models/{repo.name}"]


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin"], ["pytorch_model.bin"]),
        (
            ["pytorch_model-1.bin", "pytorch_model.bin.index.json", "a/b.safetensors"],
            ["pytorch_model-1.bin", "pytorch_model.bin.index.json"],
        ),
        (
            ["model-2.safetensors", "model-1.safetensors", "model.safetensors.index.json", "x.bin"],
            ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"],
        ),
        (["model.safetensors.index.json", "pytorch_model.bin"], ["pytorch_model.bin"]),
    ],
)
def test_one_format_of_weights(weights: list[str], wanted: list[str]) -> None:
    small = ["tokenizer.json", "config.json", "merges.txt"]
    names = needed_files([*weights, *small], "a/b", CHECKPOINT)
    assert names == ["config.json", "tokenizer.json", *wanted]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["tokenizer.json", WEIGHTS], "has no config.json"),
        (["config.json", WEIGHTS], "has no tokenizer.json"),
        (["config.json", "tokenizer.json", "model.gguf"], "has no weights"),
    ],
)
def test_no_checkpoint(names: list[str], says: str) -> None:
    assert says in line_of(PullError, needed_files, names, "a/b", CHECKPOINT)


@pytest.mark.parametrize(
    ("config", "says"), [('{"model_type": "llama"}', "llama"), ("[]", ""), ("<html>", "")]
)
def test_another_model_is_refused_before_its_weights(
    repo: Repo, fetch, config: str, says: str
) -> None:
    repo.commit("main", repo.newest | {"config.json": config.encode()})
    line = line_of(PullError, fetch)
    assert f"{repo.name}: config.json: " in line and says in line
    assert WEIGHTS not in repo.files_asked()


def test_revisions_are_pinned(repo: Repo, fetch) -> None:
    old = repo.branches["main"]
    new = repo.commit("main", repo.newest | {"tokenizer.json": b"{}"})
    repo.branches["v1"] = old
    for revision, commit in ((None, new), ("main", new), ("v1", old), (old, old)):
        repo.asked.clear()
        folder = fetch(revision=revision)
        assert folder.name == commit
        assert (folder / "tokenizer.json").read_bytes() == repo.commits[commit]["tokenizer.json"]
        assert all(commit in asked.path for asked in repo.asked if "resolve" in asked.path)


def test_gated_repository(hub: Hub, repo: Repo, fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.token = "hf_secret"
    line = line_of(PullError, fetch)
    assert "gated" in line and f"{hub.url}/{repo.name}" in line and "HF_TOKEN" in line
    assert all(asked.headers["Authorization"] is None for asked in repo.asked)
    repo.asked.clear()
    monkeypatch.setenv("HF_TOKEN", repo.token)
    assert (fetch() / WEIGHTS).read_bytes() == repo.newest[WEIGHTS]
    for asked in repo.asked:  # the token never goes to the host of the large files
        expected = None if "/cdn/" in asked.path else "Bearer hf_secret"
        assert asked.headers["Authorization"] == expected
    assert len(repo.ranges()) == 1


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_cut_connection_goes_on(repo: Repo, fetch, is_reset: bool) -> None:
    repo.cut(50_500, 30_000, is_reset=is_reset)
    assert (fetch() / WEIGHTS).read_bytes() == repo.newest[WEIGHTS]
    assert repo.ranges() == [None, "bytes=50500-", "bytes=80500-"]  # every byte is kept


def test_a_stopped_download_goes_on_in_the_next_run(repo: Repo, fetch, tmp_path: Path) -> None:
    repo.cut(50_500, 0, 0, 0, is_reset=True)
    assert "goes on where it stopped" in line_of(PullError, fetch)
    assert not list(tmp_path.rglob(WEIGHTS))
    repo.asked.clear()
    assert (fetch() / WEIGHTS).read_bytes() == repo.newest[WEIGHTS]
    assert repo.ranges() == ["bytes=50500-"]


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_damaged_file_is_named_and_goes(repo: Repo, fetch, tmp_path: Path, name: str) -> None:
    repo.flipped = name
    line = line_of(PullError, fetch)
    assert f"{repo.name}: {name} is damaged" in line and "run pull again" in line
    if name == WEIGHTS:
        assert hashlib.sha256(repo.newest[name]).hexdigest()[:12] in line
    assert not list(tmp_path.rglob(name)) and not list(tmp_path.rglob("*.incomplete"))
    repo.flipped = ""
    assert (fetch() / name).read_bytes() == repo.newest[name]


def test_damage_in_the_cache_is_found(repo: Repo, fetch) -> None:
    weights = fetch() / WEIGHTS
    weights.resolve().write_bytes(b"x")
    assert f"{WEIGHTS} is damaged" in line_of(PullError, fetch)
    assert not weights.is_symlink()
    assert (fetch() / WEIGHTS).read_bytes() == repo.newest[WEIGHTS]


def test_says_what_it_could_not_check(repo: Repo, fetch) -> None:
    repo.has_hashes = False
    lines: list[str] = []
    fetch(report=lines.append)
    assert [line for line in lines if "not checked" in line and WEIGHTS in line]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"name": "tests/nothing"}, "tests/nothing: no such repository at http"),
        ({"revision": "v9"}, "has no revision v9"),
        ({"name": "a/b/c"}, "a/b/c: not a repository's name"),
        ({"url": "http://127.0.0.1:9"}, "http://127.0.0.1:9: "),  # nobody listens there
    ],
)
def test_what_cannot_be_had(fetch, asked: dict[str, str], says: str) -> None:
    assert says in line_of(PullError, fetch, **asked)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, "Unauthorized", ""), "set HF_TOKEN to a token that it accepts"),
        ((403, "", "no"), "answered 403"),
        ((500, "", "oops"), "answered 500"),
        ((200, "", "<html>Log in to the hotel's network</html>"), "does not answer like a hub"),
    ],
)
def test_answers_that_are_no_help(
    repo: Repo, fetch, answer: tuple[int, str, str], says: str
) -> None:
    repo.answer = answer
    assert says in line_of(PullError, fetch)


def test_offline(fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in line_of(PullError, fetch)


def test_a_cache_that_cannot_be_written(fetch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    line = line_of(PullError, fetch, cache_dir=tmp_path / "file")
    assert str(tmp_path / "file") in line and "HF_HOME" in line


@pytest.mark.parametrize(
    ("repo", "name", "error", "says"),
    [
        ("tests/Mini_Janus", None, OutputError, "mini_janus: already there"),
        ("tests/Tiny-Janus", None, OutputError, "tiny-janus: a shipped bundle has this name"),
        ("tests/x", "../x", OptionError, "'../x' cannot be a bundle's name"),
        ("tests/x", "x.part", OptionError, "'x.part' cannot be a bundle's name"),
    ],
)
def test_names_are_checked_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repo: str,
    name: str | None,
    error: type[JanusEdgeError],
    says: str,
) -> None:
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path))
    (tmp_path / "bundles" / "mini_janus").mkdir(parents=True)
    monkeypatch.delattr("janus_edge.hub.pull.find")
    assert says in line_of(error, pull, repo, name=name, report=[].append)


def test_a_bundle_is_replaced_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path))
    folder = tmp_path / "bundles" / "mine"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    digest = hashlib.sha256(b"{}").hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}\n", encoding="utf-8")
    calls = []
    source = SimpleNamespace(repo="a/b", commit="c0", files={"config.json": None})
    for name, result in (
        ("pull.find", source),
        ("checkpoint.download", ("checkpoint", "autoencoder")),
        ("checkpoint.export_folder", None),
    ):
        monkeypatch.setattr(
            f"janus_edge.hub.{name}",
            lambda *words, result=result, **rest: calls.append((words, rest)) or result,
        )
    said: list[str] = []
    options = {"name": "mine", "max_length": 70, "report": [].append, "note": said.append}
    assert "already there" in line_of(OutputError, pull, "a/b", **options)
    assert not calls
    assert pull("a/b", vae="c/d", revision="v1", replace=True, **options) == folder
    (repo, asked), (_, wanted), (folders, given) = calls
    assert (repo, asked["revision"], wanted["vae"]) == (("a/b",), "v1", "c/d")
    assert given["source"] == "a/b@c0"
    assert (folders, given["max_length"], given["replace"]) == (("checkpoint", folder), 70, True)
    assert given["vae"] == "autoencoder"
    assert given["quantize"] == fastest_preset()[0] and given["roles"] is None
    assert len(said) == 1 and "--quantize" in said[0]
    calls.clear()
    source.repo = "deepseek-ai/Janus-1.3B"
    pull(source.repo, quantize="int8", replace=True, **options)
    assert (calls[2][1]["quantize"], calls[2][1]["roles"], len(said)) == ("int8", "janus", 1)
    with pytest.raises(OptionError, match='quantize is "int5"'):
        pull("a/b", quantize="int5", replace=True, **options)


def test_the_preset_that_a_machine_runs_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("janus_edge.export.quantization.fastest.library", lambda: None)
    assert fastest_preset()[0] == "int4-int8"
    monkeypatch.setattr("janus_edge.export.quantization.fastest.library", object)
    assert fastest_preset()[0] == "int4"


def test_a_damaged_pull_leaves_nothing_and_the_next_one_is_found_by_name(
    repo: Repo, home: Path, cli
) -> None:
    repo.flipped = WEIGHTS
    repo.cut(1000, is_reset=False)
    done = cli("pull", repo.name)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()  # nothing of the cut, which did no harm
    assert line.startswith("error: ") and f"{WEIGHTS} is damaged" in line
    assert not home.exists()

    repo.flipped = ""
    done = cli("pull", repo.name, "--max-length", "80")
    assert done.returncode == 0, done.stderr
    preset, why = fastest_preset()  # said aloud; and no bars where nobody looks
    assert done.stderr.startswith(f"--quantize {preset}: {why}") and done.stderr.count("\n") == 1
    assert done.stdout.splitlines()[-1] == str(home / "mini_janus")
    assert "--model mini_janus" in done.stdout
    assert [path.name for path in home.iterdir()] == ["mini_janus"]
    assert repo.files_asked() == NEEDED

    assert cli("generate", "a star", "--model", "mini_janus").returncode == 0
    assert "max_length 80" in cli("inspect", "mini_janus").stdout
    assert "mini_janus: already there" in cli.fails("pull", repo.name)
