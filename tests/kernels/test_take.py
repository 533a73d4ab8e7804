"""Checks accepted codes, drafts and the next pass's input: they are those of the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from janus_edge.kernels import take
from janus_edge.runtime.decode import Drafts
from tests.kernels.conftest import DEVICE

CODES = 5  # few, so that drafts are often right


def _state(images: int, rows: int, width: int, time: int, num: int) -> list[torch.Tensor]:
    made = [
        torch.full((rows, time, width), float("nan")),
        torch.zeros((images, num + time), dtype=torch.int64),
        torch.zeros(images, dtype=torch.int64),
        torch.full((images, num), -9),
        torch.zeros(images, dtype=torch.int64),
        torch.full((images, time), -9),
        torch.full((rows, time), -9),
        torch.full((rows,), -9),
        torch.arange(rows) + 20,
    ]
    return [each.to(DEVICE) for each in made]


@pytest.mark.parametrize("time", [2, 3, 8, 64])
@pytest.mark.parametrize(("images", "rows", "width"), [(1, 2, 48), (3, 6, 1030), (2, 2, 16)])
def test_passes_to_the_end(images: int, rows: int, width: int, time: int) -> None:
    num, table = 9, torch.randn(CODES, width).half().to(DEVICE)
    ours, theirs = (_state(images, rows, width, time, num) for _ in range(2))
    drafts = Drafts.start(images, num, time)
    random = torch.Generator().manual_seed(time)
    for index in range(num):
        chosen = torch.randint(0, CODES, (images, time if index else 1), generator=random)
        chosen[0] = chosen[0, 0]  # what repeats the last code is right
        take.take(chosen.to(DEVICE), table, *ours)
        take.reference(chosen.to(DEVICE), table, *theirs)
        for found, expected in zip(ours, theirs, strict=True):
            assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
        drafts.take(chosen.numpy())
        drawn, counts = ours[1].cpu().numpy(), ours[2].tolist()
        assert counts == drafts.drawn_B.tolist()
        for codes, count, own in zip(drawn, counts, drafts.codes_BN, strict=True):
            assert np.array_equal(codes[: count + time - 1], own[: count + time - 1])
    assert ours[2].tolist() == [num] * images


def test_an_unsound_code_stays_visible() -> None:
    """The host finds -1 among the drawn codes; the next pass reads a code that exists."""
    table = torch.ones(CODES, 8).half().to(DEVICE)
    state = _state(1, 2, 8, 2, 4)
    take.take(torch.tensor([[-1]], device=DEVICE), table, *state)
    assert state[1][0, 0] == -1 and torch.equal(state[0], torch.ones_like(state[0]))
