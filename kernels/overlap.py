"""Begin before the kernel before has ended: programmatic dependent launch, on GPUs from 9.0 on.

A kernel that is launched so starts while the one before still computes. It asks the second-level
cache for its weights, lets the next kernel start, and then waits until the one before has ended and
all that it wrote can be read. So a step's kernels follow each other without a gap, and weights
travel while other kernels compute.

OVERLAPS is False on older GPUs and in the interpreter; then nothing of this is compiled.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def fetch(
    words,
    output,
    num_outputs,
    first,
    GROUPS: tl.constexpr,
    ROW: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    """Ask the second-level cache for weights: ``GROUPS`` groups from the first, per output.

    An output has ROW groups of 16 words; a line of the cache holds 32 words. Asking reads nothing,
    so it need not wait for the kernel before.
    """
    if OVERLAPS:
        line = tl.arange(0, triton.next_power_of_2((GROUPS + 1) // 2))
        word = tl.minimum(first * 16 + line * 32, ROW * 16 - 1)
        row = tl.minimum(output, num_outputs - 1)
        at = words + row[:, None] * (ROW * 16) + word[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
            "=r,l",
            [at.to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def wait_for_previous(OVERLAPS: tl.constexpr):
    """Let the next kernel start, and wait for the one before; nothing may be read earlier."""
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
