"""Run a published shape end to end on this machine: checkpoint, export, one image, one answer.

    python bench/programs/fullsize.py janus-pro-1b DIR [--record bench/records/fullsize.jsonl]
    python bench/programs/fullsize.py janus-pro-7b DIR --quantize int4
    python bench/programs/fullsize.py janus-pro-1b DIR --only export --engines

The weights are random (tools/make_checkpoint.py), so images mean nothing; time and memory do. Each
command is a process of its own. Its peak memory is the kernel's count (ru_maxrss), which includes
the touched parts of mapped files. The last line is one JSON document. A JanusFlow draws in two
steps unless --steps says otherwise.

Records of schema fullsize/1 count 1,024,000 bytes per MB, later ones 1,000,000. From fullsize/3 on
they state the codes or steps of the image, under the key "image" from fullsize/4 on.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from janus_edge.diagnostics.records import append_record, checkout_commit, to_line
from janus_edge.model.config import JanusConfig
from janus_edge.model.files import read_object
from janus_edge.model.published import read_config

COMMAND = str(Path(sys.executable).parent / "janus-edge")
MAKE = str(Path(__file__).resolve().parents[2] / "tools" / "make_checkpoint.py")
FLOW_STEPS = 2
ENGINES = ["--backend", "tensorrt", "--quantize", "int4"]


def measured(*words: str) -> dict[str, Any]:
    """Run a command to its end; return its time in s, its peak memory in MB and what it printed.

    Raises:
        CalledProcessError: The command failed.
    """
    print("$", *words, flush=True)
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    print(said, end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    seconds = round(time.perf_counter() - began, 1)
    return {"seconds": seconds, "peak_mb": round(usage.ru_maxrss * 1024 / 1e6), "said": said}


def image_of(checkpoint: Path, steps: int) -> dict[str, int]:
    """Return the number of codes of the checkpoint's images, or of steps for a flow."""
    config = read_config(read_object(checkpoint / "config.json"))
    return {"codes": config.num_codes} if isinstance(config, JanusConfig) else {"steps": steps}


def commands(
    folder: Path, name: str, image: dict[str, int], how: list[str]
) -> dict[str, list[str]]:
    """Return the commands to measure, in order.

    Args:
        folder: Folder of checkpoint, bundle and image.
        name: Name of the checkpoint.
        image: Codes or steps of an image, as ``image_of`` returns them.
        how: More words of the export.
    """
    bundle, png = str(folder / f"{name}-bundle"), str(folder / f"{name}.png")
    steps = ["--steps", str(image["steps"])] if "steps" in image else []
    return {
        "export": ["export", str(folder / name), bundle, "--replace", *how],
        "generate": ["generate", "a red circle", "--model", bundle, "-o", png, *steps],
        "ask": ["ask", png, "what is it?", "--model", bundle, "--max-tokens", "16"],
    }


def main() -> None:
    """Make what is missing, run the commands, print and record."""
    options = _options()
    checkpoint, bundle = options.folder / options.name, options.folder / f"{options.name}-bundle"
    if not checkpoint.exists():
        measured(sys.executable, MAKE, options.name, str(checkpoint))
    image = image_of(checkpoint, options.steps)
    how = ENGINES if options.engines else ["--quantize", options.quantize]
    runs = {
        name: measured(COMMAND, *words)
        for name, words in commands(options.folder, options.name, image, how).items()
        if options.only in (None, name)
    }
    said = {name: run.pop("said") for name, run in runs.items()}
    result = {
        "schema": "fullsize/4",
        "command": _command(options),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} processors",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "checkpoint_mb": _size_mb(checkpoint),
        "bundle_mb": _size_mb(bundle),
        "image": image,
        **runs,
        "parity": [line for line in said.get("export", "").splitlines() if "error" in line],
        "answer": said.get("ask", "").strip(),
    }
    if options.record is not None:
        append_record(options.record, result)
    print(to_line(result))


def _options() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="export, generate or ask; the others have run before")
    parser.add_argument("--steps", type=int, default=FLOW_STEPS, help="of a flow's image")
    parser.add_argument("--engines", action="store_true", help="TensorRT's, of 4-bit weights")
    parser.add_argument("--quantize", default="fp32", help="the export's preset")
    parser.add_argument("--record", type=Path)
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    """Return the command line without the folders."""
    words = ["python bench/programs/fullsize.py", options.name]
    if options.only is not None:
        words += ["--only", options.only]
    if options.engines:
        words.append("--engines")
    if options.quantize != "fp32":
        words += ["--quantize", options.quantize]
    if options.steps != FLOW_STEPS:
        words += ["--steps", str(options.steps)]
    return " ".join(words)


def _size_mb(folder: Path) -> int:
    """Return the size of a folder in MB."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return round(sum(path.stat().st_size for path in files) / 1e6)


if __name__ == "__main__":
    main()
