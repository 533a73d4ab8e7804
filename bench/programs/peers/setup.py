"""What a peer is opened with, the workloads it may offer, and which peers there are.

A peer is a function of a ``Setup`` that returns a line about itself and its workloads, any of:

- ``codes``: the decoder with a head of 16384 codes, two rows: a prompt, then an image's codes, one
  after another. No sampling, no image decoder. A step's end a code.
- ``draw``: an image from tokens to pixels. A step's end a code.
- ``flow``: the same by a flow, with guidance 2. A step's end an Euler step or its like.
- ``ask``: an answer of ``Setup.max_tokens`` about an image, greedily. A step's end a token.

Shapes are Janus-Pro-1B's (of ``flow``: JanusFlow-1.3B's), weights random: time does not
depend on them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

import janus_edge.bench.programs.peers as folder
from janus_edge.bench.process import Workloads

HIDDEN, INTERMEDIATE, LAYERS, HEADS = 2048, 5632, 24, 16
THETA, EPSILON = 10000.0, 1e-6
NUM_CODES = 16384  # different ones
IMAGE = 576  # codes in an image
IMAGE_SIZE = 384
VOCABULARY = 102400
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Setup:
    """made: where a peer keeps what it has to make once. bundle: ours; None: it is not measured.
    device: "cpu" or "cuda", of those that know both.
    prompt_tokens: of drawings; a question has as many beside its image's, but ours as many
    as its prompt is by the bundle's tokenizer, which it says."""

    made: Path
    bundle: str | None
    num_threads: int
    prompt_tokens: int
    max_tokens: int
    device: str = "cpu"


Open = Callable[[Setup], tuple[str, Workloads]]
Peers = dict[str, dict[str, Open]]  # by workload, then by name


def peers(workload: str) -> tuple[dict[str, str], dict[str, str]]:
    """The files of a work's peers by the peers' names, and why other files' cannot be had here."""
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in _files():
        try:
            found |= dict.fromkeys(_module(name).PEERS.get(workload, {}), name)
        except ImportError as error:
            missing[name] = str(error)
    return found, missing


def open_named(
    file: str, name: str, workload: str, setup: Setup
) -> tuple[tuple[str, list[str]], Workloads]:
    """In a peer's process, which imports no other's file: what it says of itself, the names of
    its workloads, and these."""
    about, workloads = _module(file).PEERS[workload][name](setup)
    return (about, list(workloads)), workloads


def codes(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a prompt (prompt_tokens,) and of an image (IMAGE,), below NUM_CODES."""
    rng = np.random.default_rng(SEED)
    return rng.integers(0, NUM_CODES, setup.prompt_tokens), rng.integers(0, NUM_CODES, IMAGE)


def _files() -> Iterator[str]:
    for info in pkgutil.iter_modules(folder.__path__):
        if info.name not in ("__main__", "setup", "report"):
            yield info.name


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{folder.__name__}.{name}")
