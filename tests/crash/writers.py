"""What is stopped in its middle: every writer, with what it finds and what it must leave.

A writer's ``check`` returns "old" or "new", or raises where a folder holds neither or a mixture.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

from janus_edge.diagnostics.records import append_record, read_records
from janus_edge.export.bundle import writer as export
from janus_edge.hub.checkpoint import download
from janus_edge.hub.repository import find
from janus_edge.model.weights import Checkpoint, load_checkpoint, save_checkpoint
from janus_edge.runtime import exchange
from janus_edge.runtime.bundle import open_bundle, pulled_bundles
from janus_edge.runtime.errors import BundleError, OutputError
from janus_edge.runtime.files import private_folder
from janus_edge.runtime.image_file import save_image
from janus_edge.runtime.removal import remove_bundle
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.train.finished import finished_folder
from janus_edge.train.loop import Stage, run_stage
from tests.crash.data_writers import build, index, seen_index, seen_shards
from tests.hub.hostile_hub import COMMIT, NAME, Case, State, serve

BUNDLE = Path(os.environ.get("CRASH_BUNDLE", ""))
CHECKPOINT = Path(os.environ.get("CRASH_CHECKPOINT", ""))


@dataclasses.dataclass(frozen=True)
class Writer:
    """prepare: what stands in a folder before. run: the writer. check: what it leaves there."""

    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    check: Callable[[Path], str]


# ---- an image


def _paint(folder: Path, value: int) -> None:
    save_image(np.full((32, 32, 3), value, np.uint8), folder / "a.png", {"prompt": str(value)})


def _seen_image(folder: Path) -> str:
    with Image.open(folder / "a.png") as image:
        values = np.unique(np.asarray(image))
        assert [str(value) for value in values] == [image.text["prompt"]]
    return {1: "old", 2: "new"}[int(values[0])]


# ---- a record, a training's states, its checkpoint


def _recorded(folder: Path) -> str:
    found = read_records(folder / "r.jsonl")
    assert found[0] == {"old": 1} and all(record == {"new": "x" * 5000} for record in found[1:])
    return "new" if found[1:] else "old"


STAGE = Stage(name="s", num_steps=4, batch_size=1, learning_rate=0.1, trainable=("",))


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn an OSError into a one-line error, as the command does."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}; make room there") from error


def _train(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    with _one_line(folder), private_folder(folder, target="states"):  # as train/run.py does
        run_stage(
            model,
            STAGE,
            lambda step: (model(torch.full((1, 3), step + 1.0)).square().mean(), {}),
            folder,
            save_every_s=0,
        )


@cache
def _trained() -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        _train(Path(folder))
        return torch.load(Path(folder) / "s.pt")["model"]["weight"]


def _seen_states(folder: Path) -> str:
    for name in ("s.pt", "s.before.pt"):
        with suppress(FileNotFoundError):
            state = torch.load(folder / name)
            if state["step"] == STAGE.num_steps:
                assert torch.equal(state["model"]["weight"], _trained())
                return "new"
            return "old"
    return "old"


@cache
def _checkpoint() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


def _write_checkpoint(folder: Path, word: str) -> None:
    with _one_line(folder), finished_folder(folder) as part:
        save_checkpoint(_checkpoint(), part, torch.float16)
        for name in ("log.jsonl", "recipe.json"):
            (part / name).write_text(word, encoding="utf-8")


def _seen_checkpoint(folder: Path) -> str:
    made = folder / "checkpoint"
    word = (made / "recipe.json").read_text(encoding="utf-8")
    assert (made / "log.jsonl").read_text(encoding="utf-8") == word
    load_checkpoint(made)
    return word


# ---- a bundle: exported, removed, opened


@contextmanager
def copied_parts(made: Path) -> Iterator[None]:
    """Have an export copy its components from a bundle: what is tried is what is around them."""
    manifest = open_bundle(made).manifest.model_dump(mode="json", exclude_none=True)

    def copy(part: Path, tables: bool) -> dict[str, object]:
        found = {}
        for name, entry in manifest["components"].items():
            if (entry["backend"] == "table") == tables:
                shutil.copy(made / entry["file"], part)
                found[name] = entry
        return found

    with (
        mock.patch.object(export, "_write_graphs", lambda _c, _k, part, *_: copy(part, False)),
        mock.patch.object(export, "_write_tables", lambda _c, part, *_: copy(part, True)),
    ):
        yield


def _export(folder: Path, guidance_scale: float = 2.0) -> None:
    sampling = _checkpoint().sampling | {"guidance_scale": guidance_scale}
    export.export_bundle(
        dataclasses.replace(_checkpoint(), sampling=sampling),
        folder / "x",
        max_length=96,
        report=lambda line: None,
        replace=True,
    )


def _export_quickly(folder: Path, guidance_scale: float = 2.0) -> None:
    with copied_parts(BUNDLE):
        _export(folder, guidance_scale)


def _export_by_two_renames(folder: Path) -> None:
    with mock.patch.object(exchange, "_exchange", lambda *_: False):
        _export_quickly(folder)


def _old_bundle(folder: Path) -> None:
    _export_quickly(folder, 1.0)


def _seen_bundle(folder: Path) -> str:
    if not (folder / "x").exists():
        return "none"
    sampling = open_bundle(folder / "x", check_all=True).manifest.sampling
    return {1.0: "old", 2.0: "new"}[sampling.guidance_scale]


def _home(folder: Path) -> None:
    os.environ["JANUS_EDGE_HOME"] = str(folder)


def _pulled(folder: Path) -> None:
    shutil.copytree(BUNDLE, folder / "bundles" / "x")


def _remove(folder: Path) -> None:
    _home(folder)
    with suppress(BundleError):  # the second time it is gone
        remove_bundle("x")


def _seen_pulled(folder: Path) -> str:
    _home(folder)
    if pulled_bundles() == []:
        return "new"
    _home(folder.parent / "elsewhere")  # where looking leaves a note
    open_bundle(folder / "bundles" / "x", check_all=True)
    return "old"


def _note(folder: Path) -> None:
    _home(folder)
    open_bundle(BUNDLE)


def _seen_note(folder: Path) -> str:
    _note(folder)  # opens, whatever is noted
    for path in (folder / "checked").iterdir():
        if path.is_file():
            json.loads(path.read_bytes())
    return "new"


def _draw(folder: Path) -> None:
    _home(folder)
    session = Session(open_bundle(folder / "bundles" / "x"), num_threads=1)
    list(session.generate_image(ImageRequest(prompt="a star", temperature=0)))


# ---- a download


@cache
def _hub() -> State:
    files = {path.name: path.read_bytes() for path in CHECKPOINT.iterdir() if path.is_file()}
    wanted = ("config.json", "tokenizer.json", "model.safetensors")
    state = State({name: files[name] for name in wanted}, Case("none", "", "", print))
    for server in serve(state):
        server.daemon_threads = True
        threading.Thread(
            target=ThreadingHTTPServer.serve_forever, args=(server,), daemon=True
        ).start()
    return state


def _pull(folder: Path) -> None:
    source = find(NAME, endpoint=_hub().url, cache_dir=folder / "hf")
    download(source, report=[].append)


def _seen_files(folder: Path) -> str:
    found = list((folder / "hf").glob(f"*/snapshots/{COMMIT}/*"))
    for path in found:
        if not path.name.startswith(".janus-edge"):
            assert path.read_bytes() == _hub().files[path.name], path
    return "new" if len(found) == len(_hub().files) else "old"


WRITERS = {
    "image": Writer(lambda f: _paint(f, 1), lambda f: _paint(f, 2), _seen_image),
    "shards": Writer(lambda f: build(f, "old"), lambda f: build(f, "new"), seen_shards),
    "index": Writer(lambda f: None, index, seen_index),
    "record": Writer(
        lambda f: append_record(f / "r.jsonl", {"old": 1}),
        lambda f: append_record(f / "r.jsonl", {"new": "x" * 5000}),
        _recorded,
    ),
    "states": Writer(lambda f: None, _train, _seen_states),
    "checkpoint": Writer(
        lambda f: _write_checkpoint(f, "old"),
        lambda f: _write_checkpoint(f, "new"),
        _seen_checkpoint,
    ),
    "new-bundle": Writer(lambda f: None, _export_quickly, _seen_bundle),
    "bundle": Writer(_old_bundle, _export_quickly, _seen_bundle),
    "bundle-by-two-renames": Writer(_old_bundle, _export_by_two_renames, _seen_bundle),
    "export": Writer(_old_bundle, _export, _seen_bundle),
    "remove": Writer(_pulled, _remove, _seen_pulled),
    "notes": Writer(lambda f: None, _note, _seen_note),
    "draw": Writer(_pulled, _draw, lambda f: "new"),
    "pull": Writer(lambda f: _hub(), _pull, _seen_files),
}
