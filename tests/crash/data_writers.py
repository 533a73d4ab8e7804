"""The writers of training data that writers.py lists: shards, and the index of a shard."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from janus_edge.data.build import build_shards
from janus_edge.data.samples import Shards
from tests.data.shards import texts


def build(folder: Path, word: str) -> None:
    source = folder.parent / f"{word}.jsonl"
    source.write_text(f'{{"text": "{word}"}}\n' * 3, encoding="utf-8")
    build_shards(source, folder, role="text", samples_per_shard=2, replace=True)


def seen_shards(folder: Path) -> str:
    os.environ["JANUS_EDGE_HOME"] = str(
        folder.parent / "elsewhere"
    )  # where reading leaves an index
    shards = Shards([folder / "text"])
    (word,) = {shards.sample(i).text for i in range(3)}
    return str(word)


def index(folder: Path) -> None:
    """Read a shard that has changed since the run before."""
    os.environ["JANUS_EDGE_HOME"] = str(folder)
    assert Shards([texts(folder.parent / "a.tar", ["a", "b"])]).sample(1).text == "b"


def seen_index(folder: Path) -> str:
    """An index is whole, and whatever is kept, the shard is read."""
    for path in (folder / "shards").glob("*.npz"):
        with np.load(path) as found:
            assert set(found) == {"head", "keys", "key_ends_N", "members_N"}
    index(folder)
    return "new"
