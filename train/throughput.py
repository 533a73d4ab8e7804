"""How fast a training computes: tokens per second, and the share of the device's peak (MFU)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from janus_edge.train.recipe import Recipe, Stage
from janus_edge.train.steps import Layout

# Dense bf16 peak, FLOP/s, by a word of the device's name. Source: NVIDIA's data sheets.
PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}


def flops_of(recipe: Recipe, stage: Stage, layout: Layout) -> float:
    """Return the floating point operations of a step's matrix products, forward and backward.

    A product counts twice its weights per position; its backward pass as much again for the input's
    gradient, and again for the weights' if they learn. Attention counts each pair of positions of a
    piece. What is computed again with ``checkpointing`` is not counted, nor is the encoding of
    images by the codec, which happens once.

    Args:
        recipe: The recipe.
        stage: The stage.
        layout: The step.
    """
    language, vision = recipe.config.language, recipe.config.vision
    width, inner = language.hidden_size, language.intermediate_size
    keys = 2 * language.num_key_value_heads * language.head_dim
    layer = width * (2 * width + keys + 3 * inner)
    passes = 4 + 2 * ("language_model" in stage.train)
    positions = sum(len(piece) for piece in layout.pieces)
    pairs = sum(len(piece) ** 2 / 2 for piece in layout.pieces)
    found = language.num_hidden_layers * (passes * positions * layer + 12 * pairs * width)
    found += passes * layout.num_tokens * width * language.vocab_size
    block = vision.width**2 * (4 + 2 * vision.mlp_ratio)
    seen = sum(piece.sees for piece in layout.pieces) * vision.num_patches
    vision_passes = 6 if "understanding_encoder" in stage.train else 2
    return found + vision_passes * seen * vision.layers * block


def peak_of(device: torch.device) -> float | None:
    """Return a device's peak in FLOP/s; None if it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for word, peak in PEAKS.items() if word in name), None)


@dataclass
class Meter:
    """Counts tokens and operations between two lines of the log."""

    began: float = field(default_factory=time.monotonic)
    tokens: int = 0
    flops: float = 0.0

    def add(self, recipe: Recipe, stage: Stage, layout: Layout) -> None:
        """Count a step."""
        self.tokens += sum(len(piece) for piece in layout.pieces)
        self.flops += flops_of(recipe, stage, layout)

    def read(self, world: int, peak: float | None) -> dict[str, float]:
        """Return what was reached since the last call, and begin again.

        Args:
            world: Number of devices.
            peak: Peak of each, FLOP/s; None if it is not known.
        """
        spent = max(time.monotonic() - self.began, 1e-9)
        found = {"tokens_per_s": self.tokens / spent, "tflops": self.flops / spent / 1e12}
        if peak is not None:
            found["mfu"] = self.flops / spent / (peak * world)
        self.began, self.tokens, self.flops = time.monotonic(), 0, 0.0
        return found
