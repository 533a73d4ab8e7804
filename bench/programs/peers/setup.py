"""What a peer is opened with, the workloads it may offer, and which peers there are.

A peer is a function of a ``Setup`` that returns a line about itself and its workloads, any of:

- ``codes``: the decoder with a head of 16384 codes, two rows: a prompt, then an image's codes, one
  after another. No sampling, no image decoder. Each code ends a step.
- ``draw``: an image from tokens to pixels. Each code ends a step.
- ``flow``: the same by a flow, with guidance 2. Each Euler step or its like ends a step.
- ``ask``: an answer of ``Setup.max_tokens`` about an image, greedily. Each token ends a step.

Shapes are Janus-Pro-1B's (for ``flow``: JanusFlow-1.3B's). Weights are random, as time does not
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
NUM_CODES = 16384  # codebook size
IMAGE = 576  # codes per image
IMAGE_SIZE = 384
VOCABULARY = 102400
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a peer is opened with.

    Attributes:
        made: Folder where a peer keeps what it makes once.
        bundle: Bundle of janus-edge; None if it is not measured.
        num_threads: Threads of the peer.
        prompt_tokens: Tokens of a drawing's prompt, and of a question beside its image. A question
            of janus-edge has as many as its tokenizer makes; its line says how many.
        max_tokens: Tokens of an answer.
        device: "cpu" or "cuda", for peers that know both.
    """

    made: Path
    bundle: str | None
    num_threads: int
    prompt_tokens: int
    max_tokens: int
    device: str = "cpu"


Open = Callable[[Setup], tuple[str, Workloads]]
Peers = dict[str, dict[str, Open]]  # by workload, then by name


def peers(workload: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files of a workload's peers by name, and why other files cannot be imported."""
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
    """Open a peer in its process, which imports no other peer's file.

    Args:
        file: File of the peer.
        name: Name of the peer.
        workload: The workload.
        setup: What peers are opened with.

    Returns:
        What it says of itself with the names of its workloads, and the workloads.
    """
    about, workloads = _module(file).PEERS[workload][name](setup)
    return (about, list(workloads)), workloads


def codes(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """Return ids of a prompt (prompt_tokens,) and of an image (IMAGE,), below NUM_CODES."""
    rng = np.random.default_rng(SEED)
    return rng.integers(0, NUM_CODES, setup.prompt_tokens), rng.integers(0, NUM_CODES, IMAGE)


def _files() -> Iterator[str]:
    """Yield the names of the peers' files."""
    for info in pkgutil.iter_modules(folder.__path__):
        if info.name not in ("__main__", "setup", "report"):
            yield info.name


def _module(name: str) -> ModuleType:
    """Import a peer's file."""
    return importlib.import_module(f"{folder.__name__}.{name}")
