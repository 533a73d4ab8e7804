"""Check a recipe without weights, data or a GPU: its sizes, its memory, its first step's shapes.

The model stands on PyTorch's meta device, which computes shapes alone. A whole step of each stage
runs there, forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from janus_edge.model.config import JanusConfig
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Model
from janus_edge.train.adapters import add_adapters, has_adapters, is_frozen
from janus_edge.train.losses import FlowLosses, JanusLosses
from janus_edge.train.mixing import shares_at
from janus_edge.train.packing import Packed, join, pack
from janus_edge.train.pieces import CODE, IGNORED, LATENT, SEEN, TEXT, TIME, Piece
from janus_edge.train.recipe import ROLES, Recipe, Stage
from janus_edge.train.start import on_meta
from janus_edge.train.steps import check_context, image_tokens, latent_grid

WORLDS = (1, 8, 64)  # numbers of GPUs
TEXT_TOKENS = 64  # of a caption or a turn, with its roles
_GB = 1e9
_CODEC = ("gen_vision_model.", "vae.")
_LAYERS = "language_model.model.layers."


def lines_of(recipe: Recipe, lora: int = 0) -> Iterator[str]:
    """Yield what a dry run prints.

    Args:
        recipe: The recipe.
        lora: Rank of LoRA adapters in place of the language model's own weights; 0 for none.

    Raises:
        OptionError: peft, which LoRA needs, is not installed.
        RuntimeError: A shape does not fit.
    """
    model = on_meta(recipe)
    if lora:
        add_adapters(model, lora)
    total = sum(each.numel() for each in model.parameters())
    yield f"{recipe.name}: {total / 1e6:.1f} M parameters"
    for stage in recipe.stages:
        trained = num_trained(recipe, stage, model)
        pieces = example_pieces(recipe, stage)
        rows = pack([len(piece) for piece in pieces], recipe.context)
        counts = ", ".join(f"{each.count} {each.role}" for each in shares_at(stage, 0))
        yield f"{stage.name}: {stage.steps} steps, {trained / 1e6:.1f} M parameters learn"
        yield f"  first step: {counts}; {len(rows)} rows of {recipe.context} tokens or fewer"
        for at in sorted({0, len(rows) // 2, len(rows) - 1}):
            packed = packed_row(recipe, [pieces[i] for i in rows[at]])
            losses = meta_step(recipe, stage, model, packed)
            yield f"  row {at + 1}: {shapes_of(packed)}; losses: {', '.join(losses)}"
        found = ((n, bytes_per_gpu(recipe, stage, model, n, len(rows)) / _GB) for n in WORLDS)
        memory = ", ".join(f"{n} GPU{'s' * (n > 1)} {each:.1f}" for n, each in found)
        yield f"  memory per GPU, GB, bf16, one row at once, with --checkpointing: {memory}"


def num_trained(recipe: Recipe, stage: Stage, model: Model) -> int:
    """Return how many parameters a stage trains, without REPA's projector."""
    return sum(parameter.numel() for parameter in _learning(recipe, stage, model).values())


def _learning(recipe: Recipe, stage: Stage, model: Model) -> dict[str, nn.Parameter]:
    """Return the parameters that a stage trains, by name; adapters in place of what has them."""
    starts, parameters = recipe.prefixes(stage), dict(model.named_parameters())
    frozen = is_frozen if has_adapters(model) else lambda name: False
    return {
        name: each
        for name, each in parameters.items()
        if name.startswith(starts) and not frozen(name)
    }


def bytes_per_gpu(recipe: Recipe, stage: Stage, model: Model, world: int, rows: int) -> float:
    """Return an estimate of the memory that a GPU needs, in bytes.

    Counted are: weights in fp32, gradients and two moments, and the mean of the weights, each
    spread over the GPUs; what FSDP gathers (``_gathered``); the inputs of all layers and what one
    layer computes again; logits and their gradient. The caching allocator and NCCL take some more.

    Args:
        recipe: The recipe.
        stage: The stage.
        model: Its model, on any device.
        world: Number of GPUs.
        rows: Packed rows of a step.
    """
    sizes = {n: p.numel() for n, p in model.named_parameters() if not n.startswith(_CODEC)}
    whole, trained = sum(sizes.values()), num_trained(recipe, stage, model)
    states = 4 * whole + 12 * trained
    if recipe.ema is not None and not has_adapters(model):
        states += 4 * max(num_trained(recipe, each, model) for each in recipe.stages)
    if world == 1:  # autocast keeps a copy of what it multiplies
        gathered = 2.0 * whole
    else:
        gathered = _gathered(recipe, stage, model, is_accumulated=rows > world)
    language, tokens = recipe.config.language, recipe.context
    inner = 8 * language.hidden_size + 4 * language.intermediate_size
    activations = 2 * tokens * (language.num_hidden_layers * language.hidden_size + inner)
    logits = 10 * tokens * language.vocab_size  # bf16, fp32 and its gradient
    codec = 4 * sum(p.numel() for n, p in model.named_parameters() if n.startswith(_CODEC))
    return states / world + gathered + activations + logits + codec


def _gathered(recipe: Recipe, stage: Stage, model: Model, *, is_accumulated: bool) -> float:
    """Return the bytes of what FSDP2 holds whole on each of several GPUs.

    These are, in bf16, the weights of all but the layers and of two layers, and, until they are
    summed over the GPUs, gradients: of everything in fp32 where a GPU computes several turns, else
    of all but the layers and of one layer in bf16 and fp32.
    """
    count = recipe.config.language.num_hidden_layers
    weights, own_weights = _inside_and_out(dict(model.named_parameters()))
    gradients, own_gradients = _inside_and_out(_learning(recipe, stage, model))
    held = 2 * (own_weights + 2 * weights / count)
    if is_accumulated:
        return held + 4 * (own_gradients + gradients)
    return held + 6 * (own_gradients + gradients / count)


def _inside_and_out(parameters: Mapping[str, nn.Parameter]) -> tuple[int, int]:
    """Return how many numbers the layers have, and the rest without the codec."""
    sizes = {n: p.numel() for n, p in parameters.items() if not n.startswith(_CODEC)}
    inside = sum(size for name, size in sizes.items() if name.startswith(_LAYERS))
    return inside, sum(sizes.values()) - inside


def example_pieces(recipe: Recipe, stage: Stage) -> list[Piece]:
    """Return pieces as long as those of a stage's first step, with TEXT_TOKENS of text each.

    Raises:
        OptionError: A row has no room for an image and a text.
    """
    config = recipe.config
    check_context(recipe)
    text = min(TEXT_TOKENS, (recipe.context - image_tokens(recipe)) // 2)
    pieces = []
    for share in shares_at(stage, 0):
        if ROLES[share.role] == "answer":
            seen = config.vision.num_patches if share.role == "understanding" else 0
            parts = ((TEXT, text), (SEEN, seen), (TEXT, text))
            piece = _piece(parts, learned=text)
        elif isinstance(config, JanusConfig):
            parts = ((TEXT, text), (CODE, config.num_codes - 1), (TEXT, 0))
            piece = _piece(parts, num_codes=config.num_codes)
        else:
            parts = ((TEXT, text), (TIME, 1), (LATENT, latent_grid(recipe) ** 2))
            piece = _piece(parts)
        pieces += [piece] * share.count
    return pieces


def _piece(parts: tuple[tuple[int, int], ...], learned: int = 0, num_codes: int = 0) -> Piece:
    """Return a piece of parts (what stands there, how often) whose last tokens are learned."""
    kinds = np.concatenate([np.full(count, kind, np.uint8) for kind, count in parts])
    targets = np.full(len(kinds), IGNORED)
    targets[len(kinds) - learned :] = 0
    return Piece(
        ids_T=np.zeros(len(kinds), np.int64),
        targets_T=targets,
        kinds_T=kinds,
        positions_T=np.arange(len(kinds)),
        num_codes=num_codes,
    )


def packed_row(recipe: Recipe, pieces: list[Piece]) -> Packed:
    """Return a row of pieces on the meta device, with images."""
    config = recipe.config
    side, images = config.vision.image_size, sum(piece.draws for piece in pieces)
    seen = torch.zeros(sum(piece.sees for piece in pieces), 3, side, side, device="meta")
    codes = [np.zeros(piece.num_codes, np.int64) for piece in pieces if piece.num_codes]
    drawn: dict[str, torch.Tensor] = {}
    if images and not isinstance(config, JanusConfig):
        vae = recipe.vae_config
        assert vae is not None
        cells = side // vae.stride
        latent = torch.zeros(images, config.flow.latent_channels, cells, cells, device="meta")
        clean = torch.zeros(images, 3, side, side, device="meta")
        drawn = {"latent": latent, "noise": latent, "t": clean[:, 0, 0, 0], "clean": clean}
    packed = join([pieces], codes, seen if len(seen) else None, drawn)
    return packed.to(torch.device("meta"))


def meta_step(recipe: Recipe, stage: Stage, model: Model, packed: Packed) -> list[str]:
    """Run a row forward and backward on the meta device; return the names of the losses.

    Raises:
        RuntimeError: A shape does not fit, or a parameter that learns has no gradient.
    """
    with torch.device("meta"):
        trainee = JanusLosses(model) if isinstance(model, Janus) else FlowLosses(model, recipe.repa)
    learning = _learning(recipe, stage, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    sums = trainee(packed)
    torch.autograd.backward(torch.stack(list(sums.values())).sum())
    if without := [name for name, parameter in learning.items() if parameter.grad is None]:
        raise RuntimeError(f"stage {stage.name}: {without[0]} has no gradient")
    model.zero_grad(set_to_none=True)
    return list(sums)


def shapes_of(packed: Packed) -> str:
    """Return the shapes of a row's tensors, as text."""
    found = {"ids": packed.ids_RT, "images asked about": packed.seen_ICHW}
    found |= {name: value for name, value in packed.drawn.items() if name != "noise"}
    found |= {f"{name} targets": value for name, value in packed.targets.items() if len(value)}
    shapes = {name: tuple(each.shape) for name, each in found.items() if each is not None}
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
