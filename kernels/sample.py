"""A code a picture in one pass: guidance, temperature, top-k, Gumbel noise, argmax.

The sampler of docs/sampling.md; for equal logits its codes are those of ``runtime.sampling``. Noise
in float64 for every code would keep a consumer's GPU busy for long (docs/kernels.md): all codes are
scored in float32, near the exact score, and the few that could be the largest again in float64.

Shapes: B pictures, R rows of logits (2B under guidance, unconditional ones last), V codes.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.runtime import sampling

SLACK: tl.constexpr = tl.constexpr(4e-5)  # of two float32 scores' errors, from the noise
ROUNDING: tl.constexpr = tl.constexpr(5e-7)  # ... and from the sum, relative to it


@triton.jit
def _noise_bits(position, stream, seed, BLOCK: tl.constexpr):
    """The upper 23 bits of each code's word (BLOCK) int32: Philox4x32-10, four codes a counter."""
    counter = tl.arange(0, BLOCK // 4).to(tl.uint32)
    c1 = tl.zeros_like(counter) + position.to(tl.uint32)
    c2 = tl.zeros_like(counter) + stream.to(tl.uint32)
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(counter, c1, c2, tl.zeros_like(counter), low, high, 10)
    words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    return (words >> 9).to(tl.int32)


@triton.jit
def _near_gumbel(bits):
    """-ln(-ln(u)) in float32. Where u is near 1, and the noise large, by the series of ln(1 - d): a
    logarithm of u would have lost d."""
    u = (bits.to(tl.float32) + 0.5) * 1.1920928955078125e-07  # exact, as is d
    d = (8388607.5 - bits.to(tl.float32)) * 1.1920928955078125e-07
    series = 1 + d * (0.5 + d * (0.33333333 + d * (0.25 + d * (0.2 + d * 0.16666667))))
    return -tl.log(tl.where(d < 0.0625, d * series, -tl.log(u)))


@triton.jit
def _exact_gumbel(bits):
    """The noise of one code, as docs/sampling.md has it."""
    u = (bits.to(tl.float64) + 0.5) * 1.1920928955078125e-07
    return (-tl.log(-tl.log(u))).to(tl.float32)


@triton.jit
def _kept(scaled, valid, top_k):
    """True for what is not below the k-th largest: its bits are found from the highest down, of
    integers in the order of the floats."""
    bits = (scaled + 0.0).to(tl.int32, bitcast=True)  # no negative zero
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000
    ordered = tl.where(valid, ordered, 0)
    least = tl.max(ordered, 0) & 0  # of the same type
    bit = least | 0x80000000
    for _ in range(32):
        higher = least | bit
        count = tl.sum((ordered >= higher).to(tl.int32), 0)
        least = tl.where(count >= top_k, higher, least)
        bit = bit >> 1
    return valid & (ordered >= least)


@triton.jit
def sample_kernel(
    logits,
    codes,
    seeds,
    positions,
    guidance_scale,
    temperature,
    top_k,
    stream,
    num_pictures,
    num_codes,
    BLOCK: tl.constexpr,
):
    """One program a picture. BLOCK: a power of two, at least V. Without fused multiply-adds."""
    picture = tl.program_id(0)
    index = tl.arange(0, BLOCK)
    valid = index < num_codes
    scaled = tl.load(logits + picture * num_codes + index, mask=valid, other=0.0).to(tl.float32)
    if guidance_scale != 1.0:
        row = logits + (num_pictures + picture) * num_codes
        uncond = tl.load(row + index, mask=valid, other=0.0).to(tl.float32)
        scaled = uncond + guidance_scale * (scaled - uncond)
    if temperature == 0.0:
        tl.store(codes + picture, tl.argmax(tl.where(valid, scaled, float("-inf")), 0).to(tl.int64))
    else:
        scaled = tl.div_rn(scaled, tl.zeros_like(scaled) + temperature)
        kept = valid
        if top_k > 0:
            kept = _kept(scaled, valid, top_k)
        seed, position = tl.load(seeds + picture), tl.load(positions + picture)
        bits = _noise_bits(position, stream, seed, BLOCK)
        near = tl.where(kept, scaled + _near_gumbel(bits), float("-inf"))
        largest, found = tl.max(near, 0), tl.argmax(near, 0)
        floor = largest - SLACK - ROUNDING * tl.abs(largest)
        best = largest * 0 + float("-inf")
        while (largest >= floor) & (largest > float("-inf")):
            at = tl.argmax(near, 0)
            here = index == at
            logit = tl.sum(tl.where(here, scaled, 0.0), 0)
            value = logit + _exact_gumbel(tl.sum(tl.where(here, bits, 0), 0))
            better = (value > best) | ((value == best) & (at < found))
            found = tl.where(better, at, found)
            best = tl.where(better, value, best)
            near = tl.where(here, float("-inf"), near)
            largest = tl.max(near, 0)
        tl.store(codes + picture, found.to(tl.int64))


def sample(
    logits_RV: Tensor,
    seeds_B: Tensor,
    positions_B: Tensor,
    *,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    stream: int = sampling.STREAMS["image"],
) -> Tensor:
    """Codes (B,) int64. seeds, positions: int64 (B,); temperature 0: the largest logit."""
    num_pictures, num_codes = len(seeds_B), logits_RV.shape[1]
    codes_B = torch.empty(num_pictures, dtype=torch.int64, device=logits_RV.device)
    sample_kernel[(num_pictures,)](
        *(logits_RV, codes_B, seeds_B, positions_B, guidance_scale, temperature, top_k, stream),
        *(num_pictures, num_codes),
        BLOCK=max(4, triton.next_power_of_2(num_codes)),  # four codes share a counter
        num_warps=16,
        enable_fp_fusion=False,  # or guidance would round otherwise than on a CPU
    )
    return codes_B


def reference(
    logits_RV: Tensor,
    seeds_B: Tensor,
    positions_B: Tensor,
    *,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    stream: int = sampling.STREAMS["image"],
) -> Tensor:
    """What ``sample`` computes, by the CPU's sampler."""
    logits, num_pictures = logits_RV.float().cpu().numpy(), len(seeds_B)
    if guidance_scale != 1.0:
        logits = sampling.guide(logits[:num_pictures], logits[num_pictures:], guidance_scale)
    seeds, places = seeds_B.cpu().numpy().view(np.uint64), positions_B.cpu().numpy()
    noise_BV = np.concatenate(
        [
            sampling.gumbel(seeds[i : i + 1], places[i : i + 1], logits.shape[1], stream)[:, 0]
            for i in range(num_pictures)
        ]
    )
    return torch.from_numpy(sampling.choose(logits, noise_BV, temperature, top_k))
