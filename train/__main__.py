"""Train the small model: ``python -m janus_edge.train RUN_DIR``. Stop it any time; it resumes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint, save_checkpoint
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.train import vision, vq
from janus_edge.train.config import TINY
from janus_edge.train.loop import Stage, run_stage
from janus_edge.train.stages import STAGES, initialise, janus_loss
from janus_edge.train.text import TEMPLATE, make_tokenizer

SEED = 0
SAMPLING = {"guidance_scale": 1.25, "temperature": 0.9}  # bench/records/shapes-sweep.jsonl


def main() -> None:
    """Parse, train, write ``RUN_DIR/checkpoint``."""
    parser = argparse.ArgumentParser(prog="python -m janus_edge.train", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="states, log and the finished checkpoint")
    parser.add_argument(
        "--compile", action="store_true", help="compile the decoder layers (needs a C++ compiler)"
    )
    options = parser.parse_args()
    options.run_dir.mkdir(parents=True, exist_ok=True)
    train(options.run_dir, compile_layers=options.compile)


def train(run_dir: Path, *, compile_layers: bool) -> None:
    """All stages in order; each starts from what the one before it left."""
    torch.manual_seed(SEED)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = VQTokenizer(TINY.codebook).to(device)
    run_stage(
        tokenizer,
        vq.AUTOENCODER,
        vq.autoencoder_loss(tokenizer, vq.AUTOENCODER.batch_size),
        run_dir,
    )
    run_stage(tokenizer, vq.CODEBOOK, vq.codebook_loss(tokenizer, vq.CODEBOOK.batch_size), run_dir)
    seer = vision.PatchClassifier(TINY.vision).to(device)
    run_stage(
        seer, vision.VISION, vision.patch_loss(seer, TINY.vision, vision.VISION.batch_size), run_dir
    )
    text_tokenizer = make_tokenizer(TINY.language.vocab_size).to_str(pretty=True)
    encoder = PromptEncoder.load(text_tokenizer, TEMPLATE)
    model = Janus(TINY)
    _copy(tokenizer, model.gen_vision_model)
    _copy(seer.vision_model, model.vision_model)
    initialise(model)
    model.to(device)
    if compile_layers:
        for layer in model.language_model.model.layers:
            layer.compile(dynamic=True)
    # on a CPU, plain attention's backward pass is twice as fast as flash attention's
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
        for stage in STAGES:
            run_stage(model, stage, janus_loss(model, stage, encoder), run_dir)
    folder = run_dir / "checkpoint"
    save_checkpoint(
        Checkpoint(
            model=model,
            tokenizer_json=text_tokenizer,
            prompt=dataclasses.asdict(TEMPLATE),
            sampling=SAMPLING,
            sample_codes=vq.taught_codes(tokenizer, vq.scene_batch(0, 256))
            .cpu()
            .numpy()
            .astype("u2"),
        ),
        folder,
        torch.float16,
    )
    shutil.copy(run_dir / "log.jsonl", folder / "log.jsonl")
    (folder / "recipe.json").write_text(json.dumps(recipe(compile_layers), indent=1) + "\n")


def recipe(compile_layers: bool) -> dict[str, object]:
    """What was run, in full: the stages as they were and the machine's software."""
    stages: tuple[Stage, ...] = (vq.AUTOENCODER, vq.CODEBOOK, vision.VISION, *STAGES)
    return {
        "command": "python -m janus_edge.train RUN_DIR" + " --compile" * compile_layers,
        "seed": SEED,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "stages": [dataclasses.asdict(stage) for stage in stages],
    }


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


if __name__ == "__main__":
    main()
