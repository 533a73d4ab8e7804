"""Train a small model: ``python -m janus_edge.train RUN_DIR``. Stop it any time; it resumes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from janus_edge.model.tensors import CheckpointError
from janus_edge.model.weights import save_checkpoint
from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.files import private_folder
from janus_edge.runtime.stop import Stopped, keeping, stoppable
from janus_edge.train.finished import CHECKPOINT, finished_folder
from janus_edge.train.small import RECIPES, Made

SEED = 0
_STATES = "states"  # held in a folder by one training at a time


def main() -> None:
    """Parse the command line, train and write ``RUN_DIR/checkpoint``."""
    parser = argparse.ArgumentParser(prog="python -m janus_edge.train", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="states, log and the finished checkpoint")
    parser.add_argument("--model", choices=tuple(RECIPES), default="janus", help="which family")
    parser.add_argument(
        "--compile", action="store_true", help="compile the layers (needs a C++ compiler)"
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="of a janusflow: the checkpoint of a small Janus whose language model it starts from, "
        "or of a small JanusFlow to train on",
    )
    options = parser.parse_args()
    if (options.start is None) != (options.model == "janus"):
        parser.error("--start CHECKPOINT goes with --model janusflow, and it with --start")
    options.run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with _one_line(options.run_dir), private_folder(options.run_dir, target=_STATES):
            _train(options, parser)
    except OutputError as error:  # another training in this folder, or a full disk
        sys.exit(f"error: {error}")


def _train(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Run the chosen recipe and write its checkpoint."""
    torch.manual_seed(SEED)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # On a CPU, the backward pass of plain attention is twice as fast as that of flash attention.
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
        recipe = RECIPES[options.model]
        try:
            made = recipe(options.run_dir, device, options.compile, options.start)
        except CheckpointError as error:  # of --start
            parser.error(str(error))
    write(options.run_dir, made, sys.argv[1:])


def write(run_dir: Path, made: Made, words: list[str]) -> None:
    """Write the finished checkpoint, its log and its recipe to ``RUN_DIR/checkpoint``.

    The recipe says what was run in full: the command, the stages and the versions of the software.
    The folder appears complete or not at all. Files that others put there stay.

    Args:
        run_dir: Folder of the run, with ``log.jsonl``.
        made: The finished model and its stages.
        words: Words of the command line.

    Raises:
        OutputError: The folder cannot be written.
    """
    recipe = {
        "command": f"python -m janus_edge.train {shlex.join(words)}",
        "seed": SEED,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "stages": [dataclasses.asdict(stage) for stage in made.stages],
    }
    with _one_line(run_dir / CHECKPOINT), finished_folder(run_dir) as part:
        save_checkpoint(made.checkpoint, part, torch.float16)
        shutil.copy(run_dir / "log.jsonl", part / "log.jsonl")
        (part / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn an OSError into a one-line OutputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: {reason}; make room there, then start again") from error


def run() -> int:
    """Train and return the exit code; Ctrl-C and SIGTERM end it with a line on what is saved."""
    try:
        with stoppable(is_last=True), keeping(lambda: "start again with the same words to go on"):
            main()
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.code
    return 0


if __name__ == "__main__":
    sys.exit(run())
