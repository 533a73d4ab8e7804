"""A step of a flow: guidance, Euler's or Adams-Bashforth's step, and the preview's estimate.

The solvers of docs/sampling.md (``runtime/flow.py``): ``slope = v + weight (v - v_before)``, with
weight 0 for Euler. The factors of all steps lie on the device, so that one captured step serves
all.

Shapes: B images, R rows (2B with guidance, unconditional ones last), C latent channels, H, W latent
cells, S steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NUM_FACTORS = tl.constexpr(5)  # per step: see ``runtime.flow.factors``


@triton.jit
def flow_update_kernel(
    latents,
    velocities,
    before,
    denoised,
    step_factors,
    steps,
    times,
    num_images,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Carry one image over a step: a program per image, so that no other touches its counter.

    Pointers are those of the tensors of ``flow_update``, in order; SIZE is the size of a latent. To
    be compiled without fused multiply-adds.
    """
    image = tl.program_id(0)
    step = tl.load(steps + image)
    row = step_factors + step * NUM_FACTORS
    guidance_scale, weight = tl.load(row), tl.load(row + 1)
    length, rest, stop = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    for start in range(0, SIZE, BLOCK):
        at = start + tl.arange(0, BLOCK)
        mask, here = at < SIZE, image * SIZE + at
        v = tl.load(velocities + here, mask=mask).to(tl.float32)
        if guidance_scale != 1.0:
            uncond = tl.load(velocities + num_images * SIZE + here, mask=mask).to(tl.float32)
            v = uncond + guidance_scale * (v - uncond)
        slope = v
        if weight != 0.0:
            slope = v + weight * (v - tl.load(before + here, mask=mask))
        z = tl.load(latents + here, mask=mask) + length * slope
        tl.store(latents + here, z, mask=mask)
        tl.store(before + here, v, mask=mask)
        tl.store(denoised + here, z + rest * v, mask=mask)
    tl.debug_barrier()  # until all threads have read the counter
    tl.store(steps + image, step + 1)
    tl.store(times + image, stop)


def flow_update(
    latents_BCHW: Tensor,
    velocities_RCHW: Tensor,
    before_BCHW: Tensor,
    clean_BCHW: Tensor,
    factors_S5: Tensor,
    steps_B: Tensor,
    times_B: Tensor,
) -> None:
    """Carry latents over a step, in place.

    Args:
        latents_BCHW: Latents, fp32, changed in place.
        velocities_RCHW: Velocities: conditional rows, then, with guidance, unconditional ones.
        before_BCHW: Velocity of the step before, fp32; replaced by this step's.
        clean_BCHW: Receives what the latents would end as, fp32.
        factors_S5: Factors of each step, fp32.
        steps_B: Index of each image's step, int64; advanced by one.
        times_B: Receives the time at which the step ends, fp32.
    """
    flow_update_kernel[(len(latents_BCHW),)](
        *(latents_BCHW, velocities_RCHW, before_BCHW, clean_BCHW, factors_S5, steps_B, times_B),
        len(latents_BCHW),
        SIZE=latents_BCHW[0].numel(),
        BLOCK=1024,
        num_warps=16,
        enable_fp_fusion=False,
    )


def reference(
    latents_BCHW: Tensor,
    velocities_RCHW: Tensor,
    before_BCHW: Tensor,
    clean_BCHW: Tensor,
    factors_S5: Tensor,
    steps_B: Tensor,
    times_B: Tensor,
) -> None:
    """Do what ``flow_update`` does, with the same arguments, in PyTorch."""
    num = len(latents_BCHW)
    guidance, weight, length, rest, stop = factors_S5[steps_B].T[:, :, None, None, None]
    v = velocities_RCHW[:num].float()
    if len(velocities_RCHW) > num:
        uncond = velocities_RCHW[num:].float()
        v = torch.where(guidance == 1, v, uncond + guidance * (v - uncond))
    slope = torch.where(weight == 0, v, v + weight * (v - before_BCHW))
    latents_BCHW += length * slope
    before_BCHW.copy_(v)
    clean_BCHW.copy_(latents_BCHW + rest * v)
    steps_B += 1
    times_B.copy_(stop.flatten())
