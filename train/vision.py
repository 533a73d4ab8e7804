"""Pre-training of the small vision encoder, in place of SigLIP's pre-training on the web.

The published models start from a SigLIP that already sees; ours learns to say, for every patch,
what covers it. Janus's first two stages then keep it frozen, as the papers do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.config import VisionConfig
from janus_edge.model.vision import VisionModel
from janus_edge.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene
from janus_edge.train.loop import LossAt, Stage
from janus_edge.train.vq import pictures, scene_batch

PATCH_CLASSES = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(SIZES), len(BACKGROUNDS))

VISION = Stage(
    name="vision",
    num_steps=1500,
    batch_size=48,
    learning_rate=1e-3,
    warmup_steps=100,
    decay_from=0.4,
    trainable=("",),
)


class PatchClassifier(nn.Module):
    """The encoder and a linear head for shape, colour, size (0 = none) and background."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config)
        self.head = nn.Linear(config.width, sum(PATCH_CLASSES))

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.vision_model(pixels_BCHW)).split(PATCH_CLASSES, dim=-1)


def patch_labels(batch: list[Scene], grid: int) -> Tensor:
    """Shape, colour, size and background of each patch of one cell: (B, grid * grid, 4) int64."""
    labels = torch.zeros(len(batch), grid, grid, len(PATCH_CLASSES), dtype=torch.int64)
    for i, scene in enumerate(batch):
        labels[i, :, :, 3] = list(BACKGROUNDS).index(scene.background)
        for thing in scene.things:
            cells = SIZES[thing.size][0]
            rows = slice(thing.row, thing.row + cells)
            columns = slice(thing.column, thing.column + cells)
            labels[i, rows, columns, :3] = torch.tensor(
                [
                    1 + SHAPES.index(thing.shape),
                    1 + list(COLOURS).index(thing.colour),
                    1 + list(SIZES).index(thing.size),
                ]
            )
    return labels.flatten(1, 2)


def patch_loss(model: PatchClassifier, config: VisionConfig, batch_size: int) -> LossAt:
    """Cross-entropy of the four labels of every patch."""
    grid = config.image_size // config.patch_size

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = scene_batch(step, batch_size)
        device = model.head.weight.device
        labels = patch_labels(batch, grid).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            outputs = model(pictures(batch).to(device))
        loss = torch.zeros((), device=device)
        right = torch.ones_like(labels[..., 0], dtype=torch.bool)
        for i, logits in enumerate(outputs):
            loss = loss + F.cross_entropy(logits.float().flatten(0, 1), labels[..., i].flatten())
            right &= logits.argmax(-1) == labels[..., i]
        shown = labels[..., 0] > 0
        return loss, {"shown_accuracy": right[shown].float().mean().item()}

    return loss_at
