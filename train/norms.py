"""Group norms that train fast on a CPU.

Convolutions want channels last in memory. There PyTorch's backward pass of a group norm takes ten
times as long as with channels first: 52 ms and 5 ms for 24 maps of 96 x 96 with 16 channels in bf16
(two cores of an Intel Xeon with AMX; docs/log.md). Copying there and back costs less.

Shapes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def channels_first_norms(model: nn.Module) -> Iterator[None]:
    """Compute the group norms of a model with channels first, while this context lasts.

    Args:
        model: The model; maps go in and come out with channels last.
    """
    norms = [each for each in model.modules() if isinstance(each, nn.GroupNorm)]
    for norm in norms:
        norm.forward = partial(_normed, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normed(norm: nn.GroupNorm, x_BCHW: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = _GroupNorm.apply
    return apply(x_BCHW, norm.weight, norm.bias, norm.num_groups, norm.eps)


class _GroupNorm(torch.autograd.Function):
    """A group norm from channels last to channels last."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float
    ) -> Tensor:
        """Return the normed map, with channels last."""
        first = x_BCHW.contiguous()
        batch, channels, height, width = first.shape
        ctx.sizes = sizes = batch, channels, height * width, groups
        out, mean, rstd = torch.native_group_norm(first, weight_C, bias_C, *sizes, eps)
        ctx.save_for_backward(first, mean, rstd, weight_C)
        return out.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the map, the weight and the bias."""
        first, mean, rstd, weight_C = ctx.saved_tensors
        d_x, d_weight, d_bias = torch.ops.aten.native_group_norm_backward(
            gradients[0].contiguous(), first, mean, rstd, weight_C, *ctx.sizes, [True] * 3
        )
        return d_x.contiguous(memory_format=torch.channels_last), d_weight, d_bias, None, None
