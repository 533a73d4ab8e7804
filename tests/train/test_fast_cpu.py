"""Compare what a CPU trains with to PyTorch's own, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from janus_edge.train.attention import plain_attention
from janus_edge.train.norms import channels_first_norms


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_attention(kv_heads: int, masked: bool) -> None:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, h, 7, 8, generator=random) for h in (4, kv_heads, kv_heads))
    mask = None
    if masked:
        mask = (torch.rand(3, 1, 7, 7, generator=random) < 0.5) | torch.eye(7, dtype=torch.bool)
    words = {"attn_mask": mask, "is_causal": not masked, "enable_gqa": kv_heads != 4}
    found = []
    for attention in (plain_attention, F.scaled_dot_product_attention):
        given = [each.clone().requires_grad_() for each in (q, k, v)]
        made = attention(*given, **words)
        made.square().sum().backward()
        found.append([made, *(each.grad for each in given)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_norms() -> None:
    random = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.GroupNorm(4, 8), nn.SiLU(), nn.GroupNorm(2, 8))
    given = torch.randn(2, 8, 5, 6, generator=random).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for each in model.parameters():
            each += 0.1 * torch.randn(each.shape, generator=random)
    weight = torch.randn(given.shape, generator=random)

    def gradients() -> list[torch.Tensor]:
        x = given.clone().requires_grad_()
        made = model(x)
        assert made.is_contiguous(memory_format=torch.channels_last)
        return [made, *torch.autograd.grad((made * weight).sum(), [x, *model.parameters()])]

    expected = gradients()
    with channels_first_norms(model):
        found = gradients()
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)
    assert "forward" not in vars(model[0])
