"""Whole runs: many processes agree with one, and one that is killed goes on as if it was not."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.weights import load_checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError, OutputError
from janus_edge.runtime.events import Image
from janus_edge.runtime.files import private_folder
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.train.engine import Settings
from janus_edge.train.recipe import Recipe, load_recipe
from janus_edge.train.run import How, train_recipe
from janus_edge.train.start import Sources
from janus_edge.train.states import save, saved
from janus_edge.train.world import World
from tests.train.bench import RECIPES
from tests.train.conftest import NAMES

STEPS = 50
RUNS = (*NAMES, "mini-muon")
Curve = list[tuple[str, int, float]]
Train = Callable[..., None]


def how(lora: int = 0, **values: float) -> How:
    settings = {"bf16": False, "log_every": 1, "save_every_s": 0.0} | values
    return How(settings=Settings(**settings), lora=lora)  # type: ignore[arg-type]


def run(
    name: str, folder: Path, dataset: Path, start: Path, given: How, **changes: float | str
) -> Path:
    recipe = load_recipe(RECIPES / f"{name.removesuffix('-muon')}.toml")
    if name.endswith("-muon"):
        changes["optimizer"] = "muon"
    recipe = Recipe.model_validate(recipe.model_dump() | changes)
    sources = Sources(checkpoint=start)
    return train_recipe(recipe, dataset, folder, sources, given, lambda line: None)


def start_of(name: str, starts: dict[str, Path]) -> Path:
    return starts[name.removesuffix("-muon")]


def curve(folder: Path) -> Curve:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [(line["stage"], line["step"], line["loss"]) for line in map(json.loads, lines)]


def forked(work: Callable[[], object], environment: dict[str, str]) -> int:
    """Start a process that does work; return its number."""
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        torch.set_num_threads(1)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def group(work: Callable[[], object], world: int) -> list[int]:
    """Start the processes of a run, as torchrun does."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    if world == 1:
        return [forked(work, {})]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [forked(work, shared | each) for each in ranks]


def ended(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.fixture(scope="session")
def whole(
    dataset: Path, starts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Runs in one process that nothing disturbed, saved at the ends of their stages alone."""
    torch.set_num_threads(1)  # as in processes that are started: sums depend on it
    folders = {name: tmp_path_factory.mktemp("whole") / name for name in RUNS}
    for name, folder in folders.items():
        run(name, folder, dataset, start_of(name, starts), how(save_every_s=1000))
    return folders


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_curve_of_one(
    name: str, whole: dict[str, Path], dataset: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "two"
    start, given = start_of(name, starts), how(save_every_s=1000)
    assert ended(group(lambda: run(name, folder, dataset, start, given), 2)) == [0, 0]
    one, two = curve(whole[name]), curve(folder)
    assert len(one) == STEPS and [each[:2] for each in one] == [each[:2] for each in two]
    for (_, _, a), (_, _, b) in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3)
    assert one[-1][2] < 0.75 * one[0][2]  # it learns
    same = [load_file(each / "checkpoint/model.safetensors") for each in (whole[name], folder)]
    near = 1e-2 if name == "mini-muon" else 2e-3  # Muon's products are in bf16
    for key, value in same[0].items():
        assert torch.allclose(value.float(), same[1][key].float(), atol=near), key


@pytest.mark.parametrize(
    ("name", "kills"),
    [("mini", 20), ("mini-flow", 4), pytest.param("mini-muon", 2, marks=pytest.mark.slow)],
)
def test_a_killed_run_has_the_same_curve(
    name: str,
    kills: int,
    whole: dict[str, Path],
    dataset: Path,
    starts: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder, source = tmp_path / "killed", random.Random(name)

    def work() -> None:
        run(name, folder, dataset, start_of(name, starts), how())

    done = 0
    for number in range(kills):
        (child,) = group(work, 1)
        aim = STEPS * (number + 1) // (kills + 1)
        deadline = time.monotonic() + 60
        while done < aim and time.monotonic() < deadline and _runs(child):
            time.sleep(0.002)
            done = _done(folder)
        time.sleep(source.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        ended([child])
    assert 0 < _done(folder) < STEPS
    work()
    assert curve(folder) == curve(whole[name])
    assert _weights(folder) == _weights(whole[name])
    left = sorted(path.name for path in (folder / "states").iterdir())
    assert left == ["stage3-000000014", "stage3-000000015"]


@pytest.mark.parametrize("half", ["stage1-000000009", "stage1-000000009.part"])
def test_what_a_killed_process_left_of_a_state_goes(half: str, tmp_path: Path) -> None:
    stages, content = ["stage1"], {"model": {"x": torch.ones(2)}}
    world = World(0, 1, torch.device("cpu"))
    for step in (8, 9, 10):
        save(tmp_path, stages, (0, step), content, world)
    assert [place.step for place in saved(tmp_path, stages)] == [9, 10]
    (tmp_path / "stage1-000000009").replace(tmp_path / half)
    (tmp_path / half / ".metadata").unlink()  # killed while it removed it
    (tmp_path / "mine.part").mkdir()
    save(tmp_path, stages, (0, 11), content, world)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.part",
        "stage1-000000010",
        "stage1-000000011",
    ]


def _runs(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _done(folder: Path) -> int:
    """How many steps of all stages are saved."""
    last = saved(folder / "states", ["stage1", "stage2", "stage3"])[-1:]
    return sum((0, 10, 35)[place.stage] + place.step for place in last)


def _weights(folder: Path) -> bytes:
    return (folder / "checkpoint/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", [*NAMES, pytest.param("mini-muon", marks=pytest.mark.slow)])
def test_a_state_of_two_processes_resumes_on_one(
    name: str, whole: dict[str, Path], dataset: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    folder, start = tmp_path / "moved", start_of(name, starts)
    children = group(lambda: run(name, folder, dataset, start, how()), 2)
    deadline = time.monotonic() + 60
    while _done(folder) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    for child in children:
        os.kill(child, signal.SIGKILL)
    ended(children)
    assert 20 <= _done(folder) < STEPS
    run(name, folder, dataset, start, how())
    for (*_, a), (*_, b) in zip(curve(whole[name]), curve(folder), strict=True):
        assert b == pytest.approx(a, rel=1e-3)


def test_what_is_frozen_stays(whole: dict[str, Path], starts: dict[str, Path]) -> None:
    """The codec in every stage; all else that the recipe trains has moved."""
    for name, codec in zip(NAMES, ("gen_vision_model.", "vae."), strict=True):
        before = load_checkpoint(starts[name]).model.state_dict()
        after = load_checkpoint(whole[name] / "checkpoint").model.state_dict()
        for key, value in after.items():
            same = torch.equal(value.half(), before[key].half())
            assert same == key.startswith(codec), key


def test_the_finished_checkpoint_exports_and_draws(whole: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(whole["mini"] / "checkpoint")
    assert checkpoint.samples is not None and checkpoint.samples.shape[1:] == (16,)
    export_bundle(checkpoint, tmp_path / "b", max_length=96, report=lambda line: None)
    events = Session(open_bundle(tmp_path / "b"), num_threads=1).generate_image(
        ImageRequest(prompt="a star")
    )
    assert sum(isinstance(event, Image) for event in events) == 1


def test_a_finished_run_writes_its_checkpoint_again(
    whole: dict[str, Path], dataset: Path, starts: dict[str, Path]
) -> None:
    folder, before = whole["mini"], _weights(whole["mini"])
    (folder / "checkpoint/model.safetensors").unlink()
    (folder / "checkpoint/notes.txt").write_text("mine", encoding="utf-8")
    run("mini", folder, dataset, starts["mini"], how(save_every_s=1000))
    assert _weights(folder) == before
    assert (folder / "checkpoint/notes.txt").read_text(encoding="utf-8") == "mine"


def test_what_is_left_out_is_named(whole: dict[str, Path]) -> None:
    lines = (whole["mini"] / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    (found,) = map(json.loads, lines)
    assert found["name"].endswith("generation/0.tar/0007") and "cut" in found["reason"]


def test_low_rank_adapters(dataset: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    """The language model's matrices move by matrices of the rank; its other weights do not."""
    given = how(lora=2, save_every_s=1000)
    folder = run("mini", tmp_path / "lora", dataset, starts["mini"], given)
    before = load_checkpoint(starts["mini"]).model.state_dict()
    after = load_checkpoint(folder).model.state_dict()
    for name, value in after.items():
        if not name.startswith("language_model."):
            continue
        moved = value - before[name]
        if name.endswith("_proj.weight"):
            strengths = torch.linalg.svdvals(moved)
            assert strengths[1] > 1e-3 and strengths[2] < 0.05 * strengths[1], name
        else:
            assert torch.equal(value.half(), before[name].half()), name
    run("mini", tmp_path / "mean", dataset, starts["mini"], given, ema=0.9)
    assert _weights(tmp_path / "mean") == _weights(tmp_path / "lora")  # adapters have no mean


@pytest.mark.parametrize("more", [(), ("--lora", "2", "--samples-every", "40")], ids=str)
def test_torchrun(
    dataset: Path, starts: dict[str, Path], tmp_path: Path, more: tuple[str, ...]
) -> None:
    """The command that docs/recipes.md shows."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words = ["--standalone", "-m", "--", "janus_edge", "train", str(RECIPES / "mini.toml")]
    words += ["--data", str(dataset), "--start", str(starts["mini"]), "-o", str(tmp_path / "r")]
    done = subprocess.run(
        [*torchrun, *words, "--fp32", "--log-every", "1", *more],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "r/checkpoint")
    assert len(curve(tmp_path / "r")) == STEPS


def test_what_does_not_fit(dataset: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    def refused(name: str, start: Path, data: Path, kind: type[Exception] = OptionError) -> str:
        with pytest.raises(kind) as error:
            run(name, tmp_path / "run", data, start, how())
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "does not fit recipe mini-flow" in refused("mini-flow", starts["mini"], dataset)
    some = tmp_path / "some"
    some.mkdir()
    (some / "text").symlink_to(dataset / "text")
    said = refused("mini", starts["mini"], some)
    assert "the data have no class_prompts and no generation and no understanding; stage" in said
    assert "--role class_prompts, or take it out" in said
    assert not (tmp_path / "run").exists()  # a folder that a refused run made is gone
    (tmp_path / "run").mkdir()
    with private_folder(tmp_path / "run", target="states"):
        assert "run" in refused("mini", starts["mini"], dataset, OutputError)
    assert not list((tmp_path / "run").glob("*.json"))  # what failed binds no later try
    with pytest.raises(OptionError, match="nothing to start from"):
        train_recipe(
            load_recipe(RECIPES / "mini.toml"),
            dataset,
            tmp_path / "none",
            Sources(),
            how(),
            lambda line: None,
        )
