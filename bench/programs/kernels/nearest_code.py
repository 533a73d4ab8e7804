"""The nearest code beside a matmul and argmin in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from janus_edge.bench.programs.kernels.case import Case
from janus_edge.kernels.nearest_code import nearest_code, reference


def cases(device: str) -> Iterator[Case]:
    """Yield the codes of one image and of eight."""
    for num in (1, 8):
        vectors_NE = torch.randn(num * 576, 8, device=device)
        table_KE = torch.nn.functional.normalize(torch.randn(16384, 8, device=device), dim=-1)
        yield Case(
            shape=f"{len(vectors_NE)} vectors, 16384 codes of 8",
            ours=partial(nearest_code, vectors_NE, table_KE),
            eager=partial(reference, vectors_NE, table_KE),
            num_bytes=vectors_NE.nbytes + table_KE.nbytes + len(vectors_NE) * 8,
        )
