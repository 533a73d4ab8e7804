"""Train a small model: ``python -m janus_edge.train RUN_DIR``. Stop it any time; it resumes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shlex
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from janus_edge.model.tensors import CheckpointError
from janus_edge.model.weights import save_checkpoint
from janus_edge.train.recipes import RECIPES, Made

SEED = 0


def main() -> None:
    """Parse, train, write ``RUN_DIR/checkpoint``."""
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
    torch.manual_seed(SEED)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # on a CPU, plain attention's backward pass is twice as fast as flash attention's
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
        recipe = RECIPES[options.model]
        try:
            made = recipe(options.run_dir, device, options.compile, options.start)
        except CheckpointError as error:  # of --start
            parser.error(str(error))
    write(options.run_dir, made, sys.argv[1:])


def write(run_dir: Path, made: Made, words: list[str]) -> None:
    """The finished checkpoint with its log, and what was run in full: the stages as they were and
    the machine's software."""
    folder = run_dir / "checkpoint"
    save_checkpoint(made.checkpoint, folder, torch.float16)
    shutil.copy(run_dir / "log.jsonl", folder / "log.jsonl")
    recipe = {
        "command": f"python -m janus_edge.train {shlex.join(words)}",
        "seed": SEED,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "stages": [dataclasses.asdict(stage) for stage in made.stages],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
