"""The nearest entry, as the model's quantizer finds it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from janus_edge.kernels import nearest_code
from janus_edge.model.codebook import Quantizer
from tests.conftest import RANDOM
from tests.kernels.conftest import DEVICE


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("num", "codes", "dim"), [(1, 1, 8), (37, 40, 8), (64, 1000, 4), (5, 600, 3)]
)
def test_no_other_entry_is_nearer(
    num: int, codes: int, dim: int, dtype: torch.dtype, normalize: bool
) -> None:
    random = torch.Generator().manual_seed(codes)
    x = (torch.randn(num, dim, generator=random) * 3).to(DEVICE, dtype)
    table = F.normalize(torch.randn(codes, dim, generator=random), dim=-1).to(DEVICE, dtype)
    found = nearest_code.nearest_code(x, table, normalize=normalize)
    distances = nearest_code.distances(x, table, normalize=normalize)
    chosen = distances.gather(1, found[:, None])[:, 0]
    assert (chosen - distances.min(1).values).max() < 1e-5  # equally near ones: either
    expected = nearest_code.reference(x, table, normalize=normalize)
    assert (found == expected).float().mean() > 0.95


def test_the_first_of_equal_entries() -> None:
    table = torch.zeros(600, 8, device=DEVICE)
    table[[5, 300, 599], 0] = 1.0
    found = nearest_code.nearest_code(torch.eye(8, device=DEVICE)[:1].repeat(3, 1), table)
    assert found.tolist() == [5, 5, 5]


def test_it_is_the_models_quantizer() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(RANDOM.codebook)
    latent = torch.randn(2, RANDOM.codebook.dim, 4, 4)
    expected = quantizer.nearest(latent)
    rows = latent.flatten(2).transpose(1, 2).reshape(-1, RANDOM.codebook.dim).contiguous()
    table = quantizer.table().detach()
    found = nearest_code.nearest_code(rows.to(DEVICE), table.to(DEVICE).contiguous())
    assert found.cpu().tolist() == expected.flatten().tolist()
