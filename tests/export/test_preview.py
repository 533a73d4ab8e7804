from __future__ import annotations

import numpy as np
import pytest
import torch

from janus_edge.export.bundle import preview as fitting
from janus_edge.export.bundle.preview import fit_codes
from janus_edge.export.bundle.samples import random_codes
from janus_edge.model.weights import Checkpoint


def test_random_codes_show_every_code() -> None:
    codes = random_codes(40, 16)
    assert codes.shape == (64, 16)
    assert set(codes.unique().tolist()) == set(range(40))


def test_a_linear_world_is_recovered(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder whose cells are a linear function of the code's vector."""

    batches: list[int] = []

    class Linear(torch.nn.Module):
        quantize = checkpoint.model.gen_vision_model.quantize
        mix = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) / 4

        def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
            batches.append(len(codes_BN))
            cells = (self.quantize.table()[codes_BN] @ self.mix).detach()
            grid = cells.transpose(1, 2).reshape(len(codes_BN), 3, 4, 4)
            return grid.repeat_interleave(8, 2).repeat_interleave(8, 3)

    world = Linear()
    monkeypatch.setattr(fitting, "PIXELS_AT_ONCE", 24 * 32 * 32)
    monkeypatch.setattr(fitting, "REPORT_S", -1)
    said: list[str] = []
    table, first = fit_codes(world, random_codes(40, 16), said.append)  # type: ignore[arg-type]
    assert first.shape == (1, 3, 32, 32)
    assert batches == [1, 24, 24, 15]
    assert said == [
        "preview: decodes 64 images to be fitted to",
        *(f"preview: {done} of 64 images" for done in (1, 25, 49)),
    ]
    expected = (world.quantize.table().detach() @ world.mix + 1) * 127.5
    assert table == pytest.approx(expected.numpy(), abs=0.05)
    assert table.dtype == np.float32 and table.shape == (40, 3)
