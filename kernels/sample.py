"""One code per image in one pass: guidance, temperature, top-k, Gumbel noise, argmax.

This is the sampler of docs/sampling.md; for equal logits its codes are those of
``runtime.sampling``. Noise in fp64 for every code would keep a consumer's GPU busy for long
(docs/kernels.md). Therefore all codes are scored in fp32, near the exact score, and the few that
could be the largest are scored again in fp64.

Shapes: B images, R rows of logits (2B with guidance, unconditional ones last), V codes.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.runtime import sampling

# Two fp32 scores that differ by less may be in the wrong order: errors of the noise, and of the sum
# (relative to the largest score).
SLACK: tl.constexpr = tl.constexpr(4e-5)
ROUNDING: tl.constexpr = tl.constexpr(5e-7)
LARGEST_LOGIT: tl.constexpr = tl.constexpr(1e30)  # a larger logit, or NaN, gives code -1
# Below this temperature the largest logit is taken (docs/sampling.md).
LEAST_TEMPERATURE: tl.constexpr = tl.constexpr(1e-6)


@triton.jit
def _words(counter, position, stream, seed):
    """Return the four words (uint32) of Philox4x32-10 per counter, one per code."""
    c1 = tl.zeros_like(counter) + position.to(tl.uint32)
    c2 = tl.zeros_like(counter) + stream.to(tl.uint32)
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox_impl(counter, c1, c2, tl.zeros_like(counter), low, high, 10)


@triton.jit
def _noise_bits(position, stream, seed, BLOCK: tl.constexpr):
    """Return the upper 23 bits of each code's word, (BLOCK,) int32."""
    counter = tl.arange(0, BLOCK // 4).to(tl.uint32)
    w0, w1, w2, w3 = _words(counter, position, stream, seed)
    words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    return (words >> 9).to(tl.int32)


@triton.jit
def _noise_bits_of(code, position, stream, seed):
    """Return one code's bits, computed again: those of all codes would not fit the registers."""
    w0, w1, w2, w3 = _words((code // 4).to(tl.uint32), position, stream, seed)
    word = tl.where(code % 2 == 0, tl.where(code % 4 == 0, w0, w2), tl.where(code % 4 == 1, w1, w3))
    return (word >> 9).to(tl.int32)


@triton.jit
def _near_gumbel(bits):
    """Return -ln(-ln(u)) in fp32.

    Where u is near 1, and the noise large, the series of ln(1 - d) is used: a logarithm of u would
    have lost d.
    """
    u = (bits.to(tl.float32) + 0.5) * 1.1920928955078125e-07  # exact, as is d
    d = (8388607.5 - bits.to(tl.float32)) * 1.1920928955078125e-07
    series = 1 + d * (0.5 + d * (0.33333333 + d * (0.25 + d * (0.2 + d * 0.16666667))))
    return -tl.log(tl.where(d < 0.0625, d * series, -tl.log(u)))


@triton.jit
def _exact_gumbel(bits):
    """Return the noise of one code as docs/sampling.md defines it."""
    u = (bits.to(tl.float64) + 0.5) * 1.1920928955078125e-07
    return (-tl.log(-tl.log(u))).to(tl.float32)


@triton.jit
def _kept(scaled, valid, top_k):
    """Return True for scores that are not below the k-th largest.

    The bits of the k-th largest are found from the highest down, with integers in the order of the
    floats.
    """
    bits = (scaled + 0.0).to(tl.int32, bitcast=True)  # the sum turns -0.0 into 0.0
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


@triton.jit(do_not_specialize=["stream", "num_images"])  # else Triton makes a 1 a constant
def sample_kernel(
    logits,
    codes,
    seeds,
    positions,
    scales,
    top_ks,
    stream,
    num_images,
    NUM_CODES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sample one code: a program per image.

    Pointers are those of the tensors of ``launch``, with ``codes`` to be written. They all lie on
    the device, so that one captured step serves every request. BLOCK is a power of two, at least V.
    To be compiled without fused multiply-adds.
    """
    image = tl.program_id(0)
    index = tl.arange(0, BLOCK)
    valid = index < NUM_CODES
    guidance_scale, temperature = tl.load(scales), tl.load(scales + 1)
    top_k = tl.load(top_ks)
    scaled = tl.load(logits + image * NUM_CODES + index, mask=valid, other=0.0).to(tl.float32)
    if guidance_scale != 1.0:
        row = logits + (num_images + image) * NUM_CODES
        uncond = tl.load(row + index, mask=valid, other=0.0).to(tl.float32)
        scaled = uncond + guidance_scale * (scaled - uncond)
    is_unsound = tl.max((valid & ~(tl.abs(scaled) <= LARGEST_LOGIT)).to(tl.int32), 0)  # or NaN
    if is_unsound > 0:
        tl.store(codes + image, (tl.zeros_like(is_unsound) - 1).to(tl.int64))
    elif temperature < LEAST_TEMPERATURE:
        tl.store(codes + image, tl.argmax(tl.where(valid, scaled, float("-inf")), 0).to(tl.int64))
    else:
        scaled = tl.div_rn(scaled, tl.zeros_like(scaled) + temperature)
        kept = valid
        if top_k > 0:
            kept = _kept(scaled, valid, top_k)
        seed, position = tl.load(seeds + image), tl.load(positions + image)
        noise = _near_gumbel(_noise_bits(position, stream, seed, BLOCK))
        near = tl.where(kept, scaled + noise, float("-inf"))
        largest, found = tl.max(near, 0), tl.argmax(near, 0)
        floor = largest - SLACK - ROUNDING * tl.abs(largest)
        rivals = tl.sum(((near >= floor) & (near > float("-inf"))).to(tl.int32), 0)
        if rivals > 1:  # rare; logarithms in fp64 are slow on most GPUs
            best = largest * 0 + float("-inf")
            while rivals > 0:  # Triton's interpreter takes no range of a number on the device
                at = tl.argmax(near, 0)
                here = index == at
                logit = tl.sum(tl.where(here, scaled, 0.0), 0)
                value = logit + _exact_gumbel(_noise_bits_of(at, position, stream, seed))
                better = (value > best) | ((value == best) & (at < found))
                found = tl.where(better, at, found)
                best = tl.where(better, value, best)
                near = tl.where(here, float("-inf"), near)
                rivals -= 1
        tl.store(codes + image, found.to(tl.int64))


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
    """Return sampled codes (B,), int64; -1 where a logit is NaN or its size above 1e30.

    Args:
        logits_RV: Logits.
        seeds_B: Seed of each image, int64.
        positions_B: Position of each code in its image, int64.
        guidance_scale: Guidance scale; 1 for none, with B rows of logits.
        temperature: Temperature; below 1e-6 the largest logit is taken.
        top_k: Number of largest logits to keep; 0 for all.
        stream: Stream of the noise.
    """
    scales = torch.tensor([guidance_scale, temperature], device=logits_RV.device)
    top_ks = torch.tensor([top_k], dtype=torch.int32, device=logits_RV.device)
    return launch(logits_RV, seeds_B, positions_B, scales, top_ks, stream)


def launch(
    logits_RV: Tensor,
    seeds_B: Tensor,
    positions_B: Tensor,
    scales: Tensor,
    top_ks: Tensor,
    stream: int = sampling.STREAMS["image"],
) -> Tensor:
    """Return sampled codes (B,), int64, with settings that lie on the device.

    Args:
        logits_RV: Logits.
        seeds_B: Seed of each image, int64.
        positions_B: Position of each code in its image, int64.
        scales: Guidance scale and temperature, (2,) fp32.
        top_ks: Top-k, (1,) int32.
        stream: Stream of the noise.
    """
    num_images, num_codes = len(seeds_B), logits_RV.shape[1]
    codes_B = torch.empty(num_images, dtype=torch.int64, device=logits_RV.device)
    sample_kernel[(num_images,)](
        *(logits_RV, codes_B, seeds_B, positions_B, scales, top_ks, stream, num_images),
        NUM_CODES=num_codes,
        BLOCK=max(4, triton.next_power_of_2(num_codes)),  # four codes share a counter
        num_warps=16,
        enable_fp_fusion=False,  # else guidance rounds differently than on a CPU
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
    """Return what ``sample`` computes, with the same arguments, by the CPU's sampler."""
    logits, num_images = logits_RV.float().cpu().numpy(), len(seeds_B)
    if guidance_scale != 1.0:
        logits = sampling.guide(logits[:num_images], logits[num_images:], guidance_scale)
    seeds, places = seeds_B.cpu().numpy().view(np.uint64), positions_B.cpu().numpy()
    noise_BV = np.concatenate(
        [
            sampling.gumbel(seeds[i : i + 1], places[i : i + 1], logits.shape[1], stream)[:, 0]
            for i in range(num_images)
        ]
    )
    return torch.from_numpy(sampling.choose(logits, noise_BV, temperature, top_k))
