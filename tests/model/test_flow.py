from __future__ import annotations

import torch

from janus_edge.model.flow import GlobalResponseNorm


def test_a_channel_that_is_zero_all_over_has_a_gradient() -> None:
    """gelu of strongly negative values is zero: a root of the sum of squares would give NaN."""
    torch.manual_seed(0)
    norm = GlobalResponseNorm(4)
    torch.nn.init.normal_(norm.weight)
    x_BhwC = torch.randn(2, 3, 3, 4)
    x_BhwC[0, ..., 1] = 0
    x_BhwC.requires_grad_()
    y_BhwC = norm(x_BhwC)
    strength = x_BhwC.square().sum((1, 2), keepdim=True).sqrt()
    share = strength / (strength.mean(-1, keepdim=True) + 1e-6)
    assert torch.allclose(y_BhwC, x_BhwC + norm.weight * share * x_BhwC, atol=1e-6)
    y_BhwC.square().sum().backward()
    assert x_BhwC.grad is not None and x_BhwC.grad.isfinite().all()
