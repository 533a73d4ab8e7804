from __future__ import annotations

import numpy as np
import pytest
import torch

from janus_edge.export.preview import fit_codes
from janus_edge.export.samples import random_codes
from janus_edge.model.weights import Checkpoint


def test_random_codes_show_every_code() -> None:
    codes = random_codes(40, 16)
    assert codes.shape == (64, 16)
    assert set(codes.unique().tolist()) == set(range(40))


def test_a_linear_world_is_recovered(checkpoint: Checkpoint) -> None:
    """A decoder whose cells are a linear function of the code's vector."""

    class Linear(torch.nn.Module):
        quantize = checkpoint.model.gen_vision_model.quantize
        mix = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) / 4

        def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
            cells = (self.quantize.table()[codes_BN] @ self.mix).detach()
            grid = cells.transpose(1, 2).reshape(len(codes_BN), 3, 4, 4)
            return grid.repeat_interleave(8, 2).repeat_interleave(8, 3)

    world = Linear()
    table = fit_codes(world, random_codes(40, 16))  # type: ignore[arg-type]
    expected = (world.quantize.table().detach() @ world.mix + 1) * 127.5
    assert table == pytest.approx(expected.numpy(), abs=0.05)
    assert table.dtype == np.float32 and table.shape == (40, 3)
