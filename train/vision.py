"""Pre-training of the small vision encoder, instead of SigLIP's pre-training on the web.

The published models start from a SigLIP that already sees. Ours learns to say, for every patch,
what covers it and where it is. Each label has a fixed direction at right angles to the others, and
the features are drawn to the sum of their labels' directions. A classifier with a head of its own
left the labels in directions of little variance, where the language model did not find them
(docs/log.md). Janus's first two stages then keep the encoder frozen, as the papers do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.config import VisionConfig
from janus_edge.model.vision import VisionModel
from janus_edge.shapes.scenes import BACKGROUNDS, COLOURS, GRID, SHAPES, SIZES, Scene
from janus_edge.train.loop import LossAt, Stage, autocast
from janus_edge.train.vq import scene_batch, scene_images

# Labels of a patch: shape, colour and size of what covers it (0 = nothing), background, its row and
# column of cells, and whether it is the first cell of a thing, so that things can be counted.
PATCH_CLASSES = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(SIZES), len(BACKGROUNDS), GRID, GRID, 2)

VISION = Stage(
    name="vision",
    num_steps=1500,
    batch_size=48,
    learning_rate=1e-3,
    warmup_steps=100,
    decay_from=0.4,
    trainable=("",),
)


class PatchTeacher(nn.Module):
    """The encoder, and a fixed direction for every label of a patch."""

    def __init__(self, config: VisionConfig) -> None:
        """Create the encoder and the directions (C, W), orthogonal, of a size for unit variance."""
        super().__init__()
        self.vision_model = VisionModel(config)
        codes_CW = torch.empty(sum(PATCH_CLASSES), config.width)
        nn.init.orthogonal_(codes_CW, generator=torch.Generator().manual_seed(0))
        strength = (config.width / len(PATCH_CLASSES)) ** 0.5  # features of unit variance
        self.codes_CW: Tensor
        self.register_buffer("codes_CW", codes_CW * strength)

    def targets(self, labels_BNL: Tensor) -> Tensor:
        """Return what the features of patches with these labels should be, (B, N, W)."""
        starts = torch.tensor((0, *PATCH_CLASSES)).cumsum(0)[:-1].to(labels_BNL.device)
        return self.codes_CW[labels_BNL + starts].sum(-2)

    def read(self, features_BNW: Tensor) -> Tensor:
        """Return the labels that features are nearest to, (B, N, L)."""
        likeness = torch.split(features_BNW @ self.codes_CW.T, list(PATCH_CLASSES), dim=-1)
        return torch.stack([part.argmax(-1) for part in likeness], dim=-1)


def patch_labels(batch: list[Scene], grid: int) -> Tensor:
    """Return the labels (B, grid * grid, L) int64 of all patches, each of one cell.

    Args:
        batch: Scenes of the images.
        grid: Patches along a side.
    """
    labels = torch.zeros(len(batch), grid, grid, len(PATCH_CLASSES), dtype=torch.int64)
    labels[..., 4] = torch.arange(grid)[:, None]
    labels[..., 5] = torch.arange(grid)
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
            labels[i, thing.row, thing.column, 6] = 1
    return labels.flatten(1, 2)


def patch_loss(model: PatchTeacher, config: VisionConfig, batch_size: int) -> LossAt:
    """Return the loss: squared distance of patch features to the sum of their directions.

    Args:
        model: The encoder in training.
        config: Sizes of the encoder.
        batch_size: Images per step.
    """
    grid = config.image_size // config.patch_size

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = scene_batch(step, batch_size)
        device = model.codes_CW.device
        labels = patch_labels(batch, grid).to(device)
        with autocast(device):
            features = model.vision_model(scene_images(batch).to(device))
        loss = F.mse_loss(features.float(), model.targets(labels))
        right = (model.read(features.float()) == labels).all(-1)
        shown = labels[..., 0] > 0
        return loss, {"shown_accuracy": right[shown].float().mean().item()}

    return loss_at
