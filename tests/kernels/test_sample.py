"""The sampler's kernel draws the CPU's codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from janus_edge.kernels import sample
from janus_edge.runtime import sampling
from janus_edge.runtime.errors import BundleError
from tests.kernels.conftest import DEVICE


def _inputs(rows: int, codes: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    made = torch.randn(rows, codes, generator=torch.Generator().manual_seed(seed)) * 3
    return made.to(DEVICE, dtype)


def _counters(num: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    seeds = torch.arange(num) * 2**33 + 5 - 2**62
    return seeds.to(DEVICE), (torch.arange(num) * 7 + start).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("num", "codes"), [(1, 1), (1, 2), (3, 40), (2, 1000), (2, 1024), (5, 4097)]
)
def test_it_draws_the_cpus_codes(num: int, codes: int, dtype: torch.dtype) -> None:
    for start in range(4):
        logits = _inputs(2 * num, codes, dtype, start)
        seeds, positions = _counters(num, start)
        how = {"guidance_scale": 5.0, "temperature": 0.9}
        found = sample.sample(logits, seeds, positions, **how)
        assert found.tolist() == sample.reference(logits, seeds, positions, **how).tolist()


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "guidance_scale": 2.0},
        {"temperature": 1e-40},
        {"temperature": 9e-7, "top_k": 3},
        {"temperature": 1.1e-6},
        {"temperature": 1.7},
        {"top_k": 1},
        {"top_k": 17, "guidance_scale": 3.0},
        {"top_k": 10**6},
        {"stream": sampling.STREAMS["text"]},
    ],
)
def test_settings(how: dict[str, float]) -> None:
    rows = 4 if "guidance_scale" in how else 2
    logits, (seeds, positions) = _inputs(rows, 700, torch.float32, 3), _counters(2, 90)
    expected = sample.reference(logits, seeds, positions, **how)
    assert sample.sample(logits, seeds, positions, **how).tolist() == expected.tolist()


def test_all_of_a_full_codebook() -> None:
    logits, (seeds, positions) = _inputs(4, 16384, torch.float32, 0), _counters(2, 570)
    how = {"guidance_scale": 5.0}
    expected = sample.reference(logits, seeds, positions, **how)
    assert sample.sample(logits, seeds, positions, **how).tolist() == expected.tolist()


def test_noise_decides_between_equal_logits() -> None:
    """Then every slip of the noise shows: its largest value is drawn."""
    logits, num = torch.zeros(64, 1024, device=DEVICE), 64
    seeds, positions = _counters(num, 0)
    expected = sample.reference(logits, seeds, positions)
    assert sample.sample(logits, seeds, positions).tolist() == expected.tolist()


def test_the_lowest_of_equal_scores_and_ties_at_the_kth() -> None:
    logits = torch.zeros(1, 300, device=DEVICE)
    logits[0, [7, 100, 299]] = 2.0
    seeds, positions = _counters(1, 3)
    assert sample.sample(logits, seeds, positions, temperature=0.0).tolist() == [7]
    for top_k in (1, 2, 3, 4):
        expected = sample.reference(logits, seeds, positions, top_k=top_k)
        assert sample.sample(logits, seeds, positions, top_k=top_k).tolist() == expected.tolist()


def test_near_scores_are_decided_exactly() -> None:
    """Two codes that a shortcut could confuse: a few units apart in the last place."""
    seeds, positions = _counters(1, 11)
    noise = sampling.gumbel(seeds.cpu().numpy().view(np.uint64), np.array([11]), 512, 0)[0, 0]
    for step in range(-4, 5):
        logits = torch.full((1, 512), -50.0)
        logits[0, 3], logits[0, 400] = 20.0 - float(noise[3]), 20.0 - float(noise[400])
        logits[0, 400] += step * 2.0**-20
        given = logits.to(DEVICE)
        expected = sample.reference(given, seeds, positions)
        assert sample.sample(given, seeds, positions).tolist() == expected.tolist()


def test_logits_that_are_no_numbers_have_no_code() -> None:
    """-1, which the loop turns into the CPU's error; the other image draws its own."""
    for wrong in (float("nan"), float("inf"), -float("inf"), 2e30):
        logits, (seeds, positions) = _inputs(2, 300, torch.float32, 1), _counters(2, 4)
        expected = sample.reference(logits, seeds, positions).tolist()
        logits[1, 299] = wrong
        assert sample.sample(logits, seeds, positions).tolist() == [expected[0], -1]
        with pytest.raises(BundleError, match="NaN or beyond 1e30"):
            sample.reference(logits, seeds, positions)
