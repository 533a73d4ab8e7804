"""Codes to the next input: both rows, counters, what was drawn."""

from __future__ import annotations

import pytest
import torch

from janus_edge.kernels import look_up
from tests.kernels.conftest import DEVICE


# not bfloat16: the interpreter cuts off where a device rounds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("num", "rows_an_image", "width"), [(1, 2, 48), (3, 2, 1030), (2, 1, 2048), (5, 1, 1)]
)
def test_rows_counters_and_codes(
    num: int, rows_an_image: int, width: int, dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(num)
    table = torch.randn(77, width, generator=random).half().to(DEVICE)
    rows = num * rows_an_image
    results = []
    for run in (look_up.look_up, look_up.reference):
        random.manual_seed(1)
        state = [
            torch.full((rows, width), float("nan"), dtype=dtype),
            torch.full((num, 9), -1),
            torch.arange(num) % 3,
            torch.zeros(rows, dtype=torch.int64),
            torch.arange(rows) + 20,
        ]
        state = [each.to(DEVICE) for each in state]
        for _ in range(4):
            codes = torch.randint(0, 77, (num,), generator=random).to(DEVICE)
            run(codes, table, *state)
        results.append(state)
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_codes_behind_the_last_are_not_kept() -> None:
    table = torch.ones(4, 8, device=DEVICE)
    drawn = torch.full((2, 3), -1, device=DEVICE)
    positions = torch.tensor([3, 2], device=DEVICE)
    rows = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    codes = torch.tensor([1, 2], device=DEVICE)
    look_up.look_up(
        codes, table, torch.empty(2, 8, device=DEVICE), drawn, positions, rows, rows.clone()
    )
    assert drawn.tolist() == [[-1, -1, -1], [-1, -1, 2]]
