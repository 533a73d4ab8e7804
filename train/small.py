"""Recipes that train a small model from nothing, one per family: which stages follow each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.tensors import CheckpointError
from janus_edge.model.vae import VAE
from janus_edge.model.vision import VisionModel
from janus_edge.model.weights import Checkpoint, load_checkpoint
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.train import flow, vae, vision, vq
from janus_edge.train.config import TINY, TINY_FLOW
from janus_edge.train.loop import Stage, run_stage
from janus_edge.train.stages import STAGES, initialise, janus_loss
from janus_edge.train.text import TEMPLATE, make_tokenizer

# Settings that scored best: bench/records/shapes-sweep.jsonl, docs/flow.md.
SAMPLING = {"guidance_scale": 1.25, "temperature": 0.9}
FLOW_SAMPLING = {"guidance_scale": 2.0, "num_steps": 12, "solver": "ab2", "guidance_end": 0.5}
NUM_SAMPLES = 256  # images to fit the preview to


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished model and the stages that made it."""

    checkpoint: Checkpoint
    stages: tuple[Stage, ...]


def make_janus(run_dir: Path, device: torch.device, compiled: bool, _start: Path | None) -> Made:
    """Train the VQ tokenizer, the vision encoder, then Janus in three stages.

    Args:
        run_dir: Folder of states and log.
        device: Device to train on.
        compiled: Whether to compile the language model's layers.
        _start: Unused; recipes have one signature.
    """
    tokenizer = VQTokenizer(TINY.codebook).to(device)
    for stage, loss in ((vq.AUTOENCODER, vq.autoencoder_loss), (vq.CODEBOOK, vq.codebook_loss)):
        run_stage(tokenizer, stage, loss(tokenizer, stage.batch_size), run_dir)
    vision_model = _train_vision(run_dir, device)
    text_tokenizer = make_tokenizer(TINY.language.vocab_size).to_str(pretty=True)
    encoder = PromptEncoder.load(text_tokenizer, TEMPLATE)
    model = Janus(TINY)
    _copy(tokenizer, model.gen_vision_model)
    _copy(vision_model, model.vision_model)
    initialise(model)
    model.to(device)
    if compiled:
        _compile(model.language_model.model.layers)
    for stage in STAGES:
        run_stage(model, stage, janus_loss(model, stage, encoder), run_dir)
    codes = vq.taught_codes(tokenizer, vq.scene_batch(0, NUM_SAMPLES)).cpu().numpy()
    checkpoint = Checkpoint(
        model=model,
        tokenizer_json=text_tokenizer,
        prompt=dataclasses.asdict(TEMPLATE),
        sampling=dict(SAMPLING),
        samples=codes.astype("u2"),
    )
    return Made(checkpoint=checkpoint, stages=(vq.AUTOENCODER, vq.CODEBOOK, vision.VISION, *STAGES))


def make_flow(run_dir: Path, device: torch.device, compiled: bool, start: Path | None) -> Made:
    """Train a small JanusFlow, from a small Janus's language model or from a JanusFlow.

    From a Janus: the autoencoder, the vision encoder, then three stages. From a JanusFlow: the
    three stages alone.

    Args:
        run_dir: Folder of states and log.
        device: Device to train on.
        compiled: Whether to compile the layers.
        start: Folder of the checkpoint to start from.

    Raises:
        CheckpointError: The checkpoint's language model has other sizes.
    """
    assert start is not None
    found = load_checkpoint(start)
    if found.model.config.language != TINY_FLOW.language:
        raise CheckpointError(f"{start}: its language model has other sizes; give a small Janus")
    before: tuple[Stage, ...] = ()
    if isinstance(found.model, JanusFlow):
        model = found.model
    else:
        before = (vae.VAE_STAGE, vision.VISION)
        model = _fresh_flow(run_dir, device, found.model)
    trainee = flow.Trainee(model).to(device)
    if compiled:
        _compile(model.language_model.model.layers)
        _compile(model.vision_gen_enc_model.mid_block.res_blocks)
        _compile(model.vision_gen_dec_model.mid_block.res_blocks)
    encoder = PromptEncoder.load(found.tokenizer_json, TEMPLATE)
    for stage in flow.FLOW_STAGES:
        loss = flow.flow_loss(trainee, stage, encoder)
        run_stage(trainee, stage, loss, run_dir, after_step=trainee.update)
    return Made(
        checkpoint=Checkpoint(
            model=trainee.averaged(),
            tokenizer_json=found.tokenizer_json,
            prompt=dataclasses.asdict(TEMPLATE),
            sampling=dict(FLOW_SAMPLING),
            samples=sample_latents(model.vae),
        ),
        stages=(*before, *flow.FLOW_STAGES),
    )


def _fresh_flow(run_dir: Path, device: torch.device, janus: Janus) -> JanusFlow:
    """Return a JanusFlow with trained autoencoder, vision encoder and language model."""
    autoencoder, stage = VAE(vae.TINY_VAE).to(device), vae.VAE_STAGE
    run_stage(autoencoder, stage, vae.vae_loss(autoencoder, stage.batch_size), run_dir)
    scaled = dataclasses.replace(vae.TINY_VAE, scaling_factor=vae.latent_scale(autoencoder))
    model = JanusFlow(TINY_FLOW, scaled)
    flow.initialise_flow(model)
    _copy(autoencoder, model.vae)
    _copy(_train_vision(run_dir, device), model.vision_und_enc_model)
    _copy(janus.language_model, model.language_model)
    return model


Recipe = Callable[[Path, torch.device, bool, Path | None], Made]
RECIPES: dict[str, Recipe] = {"janus": make_janus, "janusflow": make_flow}


@torch.no_grad()
def sample_latents(model: VAE) -> np.ndarray:
    """Return scaled latents (P, Z, H, W) of training images, float16."""
    device = model.quant_conv.weight.device
    batches = torch.split(vq.scene_images(vq.scene_batch(0, NUM_SAMPLES // 4)), 32)
    latents = torch.cat([model.to_latent(batch.to(device)).cpu() for batch in batches])
    return latents.half().numpy()


def _train_vision(run_dir: Path, device: torch.device) -> VisionModel:
    """Train the vision encoder and return it."""
    teacher, stage = vision.PatchTeacher(TINY.vision).to(device), vision.VISION
    run_stage(teacher, stage, vision.patch_loss(teacher, TINY.vision, stage.batch_size), run_dir)
    return teacher.vision_model


def _compile(modules: nn.ModuleList) -> None:
    """Compile each module for dynamic shapes."""
    for module in modules:
        module.compile(dynamic=True)


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy all parameters of one module to another."""
    target.load_state_dict(source.state_dict())
