"""The sampler beside guidance, division, an exponential race and argmax in PyTorch.

PyTorch uses its own noise: eager code makes no Philox words.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from janus_edge.bench.programs.kernels.case import Case
from janus_edge.kernels.sample import launch


def cases(device: str) -> Iterator[Case]:
    """Yield one image with and without top-k, and eight."""
    for num, top_k in ((1, 0), (1, 256), (8, 0)):
        yield _case(device, num, top_k)


def _case(device: str, num: int, top_k: int) -> Case:
    logits_RV = torch.randn(2 * num, 16384, device=device)
    seeds = torch.arange(num, device=device)
    positions = torch.full((num,), 100, device=device)
    scales = torch.tensor([5.0, 0.9], device=device)
    top_ks = torch.tensor([top_k], dtype=torch.int32, device=device)

    def eager() -> torch.Tensor:
        cond, uncond = logits_RV[:num], logits_RV[num:]
        scaled = (uncond + 5.0 * (cond - uncond)) / 0.9
        if top_k:
            least = scaled.topk(top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, float("-inf"))
        probs = scaled.softmax(-1)
        return (probs / torch.empty_like(probs).exponential_()).argmax(-1)

    return Case(
        shape=f"{num} images of 16384 codes" + (f", top-k {top_k}" if top_k else ""),
        ours=lambda: launch(logits_RV, seeds, positions, scales, top_ks),
        eager=eager,
        num_bytes=logits_RV.nbytes,
    )
