"""Pre-training of a vision encoder by labelled boxes: each patch learns what it shows, and where.

A label's direction is made of the language model's own vectors of its tokens, and a patch's feature
is drawn to the sum of the directions that it shows. So one linear map leads from a word to the
patches that show it, and it serves all words. A classifier's features do not do that: a language
model finds them late, or never (docs/log.md, 2026-11-21 and 2026-11-30).

Shapes: B batch, S image side, G patches along a side, N patches (G * G), W vision width, V tokens,
H width of a token's vector, L labels of a step, D dimensions of labels (W - 2 G).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.train.loop import LossAt, autocast
from janus_edge.train.varied import Boxes, varied

Labelled = Callable[[int, int], tuple[Tensor, list[Boxes]]]  # images, and boxes in px of them
Directions = Callable[[str], Tensor]
_SHARPNESS = 8.0  # of the logits of a feature that is where it should be
_CONTRAST = 0.3  # weight of telling a step's labels apart, beside the distance


def directions(vectors_VH: Tensor, encode: Callable[[str], Sequence[int]], size: int) -> Directions:
    """Return what gives a label's unit vector (D,): the sum of its tokens' vectors, projected.

    Args:
        vectors_VH: The language model's vectors of tokens.
        encode: Returns the token ids of a text.
        size: D.
    """
    centred_VH = vectors_VH.detach().float().cpu()
    centred_VH = centred_VH - centred_VH.mean(0)
    drawn = torch.randn(centred_VH.shape[1], size, generator=torch.Generator().manual_seed(0))
    found_VD = F.normalize(centred_VH @ drawn, dim=1)

    @cache
    def direction(label: str) -> Tensor:
        return F.normalize(found_VD[sorted(set(encode(label)))].sum(0), dim=0)

    return direction


def patch_loss(
    encoder: nn.Module,
    labelled: Labelled,
    batch_size: int,
    patch: int,
    direction: Directions,
    seed: int = 0,
) -> LossAt:
    """Return the loss: how far is a feature from what its patch shows; are labels told apart?

    Args:
        encoder: The encoder in training.
        labelled: A step's images with their boxes.
        batch_size: Images per step.
        patch: Side of a patch, px.
        direction: Direction of a label.
        seed: Seed of how images vary.
    """

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, step))
        pixels_BCHW, boxes = varied(*labelled(step, batch_size), rng)
        grid = pixels_BCHW.shape[-1] // patch
        labels = sorted({box.label for each in boxes for box in each})
        is_BLN = np.stack([shown_in(each, labels, grid, patch) for each in boxes])
        device = next(encoder.parameters()).device
        with autocast(device):
            features_BNW = encoder(pixels_BCHW.to(device))
        label_LD = torch.stack([direction(label) for label in labels]).to(device)
        is_BNL = torch.from_numpy(is_BLN).to(device).transpose(1, 2)
        return _loss(features_BNW.float(), is_BNL, label_LD, places(grid).to(device))

    return loss_at


def shown_in(boxes: Boxes, labels: list[str], grid: int, patch: float) -> np.ndarray:
    """Return whether each label shows in each patch, (L, N): its box reaches half a pixel into it.

    Args:
        boxes: Boxes of an image.
        labels: The labels.
        grid: G.
        patch: Side of a patch, px.
    """
    found = np.zeros((len(labels), grid, grid), bool)
    for each in boxes:
        x, y, width, height = each.box
        rows, columns = _reached(y, height, grid, patch), _reached(x, width, grid, patch)
        found[labels.index(each.label), rows, columns] = True
    return found.reshape(len(labels), -1)


def _reached(start: float, length: float, grid: int, patch: float) -> slice:
    first, last = math.floor((start + 0.5) / patch), math.ceil((start + length - 0.5) / patch)
    return slice(min(grid, max(0, first)), min(grid, max(0, last)))


def places(grid: int) -> Tensor:
    """Return which row and which column each patch is in, (N, 2 G): a one for each of both."""
    row_N, column_N = torch.arange(grid * grid) // grid, torch.arange(grid * grid) % grid
    return torch.cat([F.one_hot(row_N, grid), F.one_hot(column_N, grid)], 1).float()


def _loss(
    features_BNW: Tensor, is_BNL: Tensor, label_LD: Tensor, place_NP: Tensor
) -> tuple[Tensor, dict[str, float]]:
    # Three labels and a place make a feature of about unit variance, as the last norm gives.
    length = math.sqrt(features_BNW.shape[-1]) / 2
    label_BND = is_BNL.float() @ label_LD * length
    place_BNP = (place_NP * length / 2).expand(*label_BND.shape[:2], -1)
    distance = F.mse_loss(features_BNW, torch.cat([label_BND, place_BNP], -1))
    logits_BNL = features_BNW[..., : label_LD.shape[1]] @ label_LD.T * (_SHARPNESS / length)
    share_BNL = is_BNL.float() / is_BNL.sum(-1, keepdim=True).clamp(min=1)
    apart = -(share_BNL * F.log_softmax(logits_BNL, -1)).sum(-1).mean()
    return distance + _CONTRAST * apart, {"right": _right(logits_BNL, is_BNL)}


def _right(logits_BNL: Tensor, is_BNL: Tensor) -> float:
    """Return the part of shown labels that are among as many of the likeliest ones."""
    count_BN1 = is_BNL.sum(-1, keepdim=True)
    most = int(count_BN1.max())
    likeliest_BNK = logits_BNL.topk(most).indices
    found_BNK = is_BNL.gather(-1, likeliest_BNK)
    found_BNK &= torch.arange(most, device=is_BNL.device) < count_BN1
    return (found_BNK.sum() / count_BN1.sum().clamp(min=1)).item()
