"""Pre-training of a vision encoder by captions, as SigLIP was: images against texts.

The text's side is a mean of word vectors, which small models and short captions need no more than.
The image's is a mean of the patches' features, so each patch learns to say what it shows. Only the
encoder is kept.

Shapes: B batch, N patches, W vision width, E shared dimension.

Source: arXiv 2303.15343.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.train.loop import LossAt, autocast

Captioned = Callable[[int, int], tuple[Tensor, list[list[int]]]]  # images, token ids of captions


class SiglipTrainee(nn.Module):
    """A vision encoder in training, with what only this training needs."""

    def __init__(self, vision_model: nn.Module, width: int, vocab_size: int) -> None:
        """Keep the encoder; create the word vectors and both projections.

        Args:
            vision_model: The encoder.
            width: W, and E.
            vocab_size: Tokens of the tokenizer.
        """
        super().__init__()
        self.vision_model = vision_model
        self.words = nn.EmbeddingBag(vocab_size, width, mode="mean")
        self.of_text = nn.Linear(width, width)
        self.of_image = nn.Linear(width, width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # the paper's
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))  # the paper's

    def logits(self, pixels_BCHW: Tensor, captions: list[list[int]]) -> Tensor:
        """Return how well each image and each caption match, (B, B).

        Args:
            pixels_BCHW: Images in [-1, 1].
            captions: Token ids of each caption.
        """
        device = self.logit_bias.device
        with autocast(device):
            features_BNW = self.vision_model(pixels_BCHW.to(device))
        image_BE = F.normalize(self.of_image(features_BNW.float().mean(1)), dim=-1)
        ids = torch.tensor([i for each in captions for i in each], device=device)
        starts = torch.tensor([0, *map(len, captions)], device=device)[:-1].cumsum(0)
        text_BE = F.normalize(self.of_text(self.words(ids, starts)), dim=-1)
        return self.logit_scale.exp() * image_BE @ text_BE.T + self.logit_bias


def siglip_loss(trainee: SiglipTrainee, captioned: Captioned, batch_size: int) -> LossAt:
    """Return the loss: each image with each caption, is it its own?

    Args:
        trainee: The encoder in training.
        captioned: A step's images and captions.
        batch_size: Images per step.
    """

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels, captions = captioned(step, batch_size)
        logits_BB = trainee.logits(pixels, captions)
        words = [tuple(each) for each in captions]
        same = torch.tensor([[a == b for b in words] for a in words], device=logits_BB.device)
        loss = -F.logsigmoid(torch.where(same, logits_BB, -logits_BB)).sum(1).mean()
        best = logits_BB.argmax(1)
        right = same[torch.arange(len(words), device=best.device), best].float().mean()
        return loss, {"retrieval": right.item()}

    return loss_at
