"""Weights of 4 and 8 bits as the decoder's kernels read them, and products with them.

A matrix of O outputs and I inputs lies in words of 32 bits, (O, I / inputs per group, 16). A group
is 128 inputs of 4 bits or 64 inputs of 8 bits: value j of word w belongs to input 16 j + w of the
group. So one load of 16 words brings what 8 (or 4) products of 16 inputs each need, without moving
values between threads. Scales are per 128 (or 32) inputs.

Shapes: O outputs, I inputs, K scales per output, R rows (at most 16, the rows of a product tile).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16  # of a tile of products; fewer rows are filled up
WORDS = 16  # of a group, for one output
NEGLIGIBLE = tl.constexpr(-1e30)  # a score that counts nothing; differences of it are finite


@dataclass(frozen=True)
class Packing:
    """How weights lie in words.

    Attributes:
        bits: Of a weight.
        block: Inputs that share a scale.
    """

    bits: int
    block: int

    @property
    def zero(self) -> int:
        """The value that means 0."""
        return 1 << (self.bits - 1)

    @property
    def group(self) -> int:
        """How many inputs 16 words hold."""
        return WORDS * 32 // self.bits


INT4, INT8 = Packing(4, 128), Packing(8, 32)


def pack(values_OI: Tensor, packing: Packing) -> Tensor:
    """Return values in words, (O, I / group, 16) int32.

    Args:
        values_OI: From 0 to 2^bits - 1; I is a multiple of the group.
        packing: How.
    """
    outputs, inputs = values_OI.shape
    group = packing.group
    if inputs % group:
        raise ValueError(f"{inputs} inputs are no multiple of {group}")
    values = values_OI.long().view(outputs, inputs // group, -1, WORDS)
    shifts = torch.arange(values.shape[2], device=values.device) * packing.bits
    words = (values << shifts[:, None]).sum(2)
    return torch.where(words >= 2**31, words - 2**32, words).int().contiguous()


def unpack(words: Tensor, packing: Packing) -> Tensor:
    """Return the values that ``pack`` was given, (O, I) int64."""
    shifts = torch.arange(32 // packing.bits, device=words.device) * packing.bits
    values = words.long()[:, :, None, :] >> shifts[:, None] & (1 << packing.bits) - 1
    return values.reshape(len(words), -1)


def weights(words: Tensor, scales_OK: Tensor, packing: Packing) -> Tensor:
    """Return the weights that words and scales stand for, (O, I) float32."""
    values = (unpack(words, packing) - packing.zero).float()
    return values * scales_OK.float().repeat_interleave(packing.block, 1)


@triton.jit
def weights_of(words, output, num_outputs, group, NUM_GROUPS: tl.constexpr, BITS: tl.constexpr):
    """Load a group of weights for each output, less their zero: (outputs, group's inputs) float16.

    A float16 with the bits of 0x6400 is 1024, and its last bits count ones: no conversion.
    """
    NUM: tl.constexpr = 32 // BITS
    word = tl.arange(0, 16)
    at = (output[:, None] * NUM_GROUPS + group) * 16 + word[None, :]
    word = tl.load(words + at, mask=output[:, None] < num_outputs, other=0)
    shift = tl.arange(0, NUM) * BITS
    values = (word[:, None, :] >> shift[None, :, None]) & ((1 << BITS) - 1)
    halves = (values | 0x6400).to(tl.int16).to(tl.float16, bitcast=True)
    return tl.reshape(halves - (1024 + (1 << (BITS - 1))), (output.shape[0], NUM * 16))
