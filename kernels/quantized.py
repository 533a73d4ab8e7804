"""Weights of 4 and 8 bits as the decoder's kernels read them, and products with them.

A matrix of O outputs and I inputs lies in words of 32 bits, (O, I / inputs per group, 16). A group
is 128 inputs of 4 bits or 64 inputs of 8 bits. A word has N = 8 or 4 inputs that follow each other:
its lower half those with even numbers, its upper half those with odd ones. So one shift and one
mask leave two neighbours in one register, where two float16 belong. Scales are per 128
(or 32) inputs.

Shapes: O outputs, I inputs, K scales per output, R rows.
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
    values = values_OI.long().view(outputs, inputs // group, WORDS, -1)
    words = (values << _shifts(packing).to(values.device)).sum(3)
    return torch.where(words >= 2**31, words - 2**32, words).int().contiguous()


def unpack(words: Tensor, packing: Packing) -> Tensor:
    """Return the values that ``pack`` was given, (O, I) int64."""
    values = words.long()[..., None] >> _shifts(packing).to(words.device) & (1 << packing.bits) - 1
    return values.reshape(len(words), -1)


def _shifts(packing: Packing) -> Tensor:
    """Return by how many bits each input of a word is shifted: even ones, then odd ones."""
    number = torch.arange(32 // packing.bits)
    return (number // 2 + number % 2 * (len(number) // 2)) * packing.bits


def weights(words: Tensor, scales_OK: Tensor, packing: Packing) -> Tensor:
    """Return the weights that words and scales stand for, (O, I) float32."""
    values = (unpack(words, packing) - packing.zero).float()
    return values * scales_OK.float().repeat_interleave(packing.block, 1)


@triton.jit
def scaled_fp16(found):
    """Return a tile's rows as float16, each divided by a power of two, and these powers (rows,).

    Some channels of language models are larger than a float16 holds. The power is that of the row's
    largest number, so dividing rounds nothing; it is taken from the bits, as a GPU's division is
    not exact. 2^-60 and below count as 1.
    """
    largest = tl.max(tl.abs(found), 1)
    bits = largest.to(tl.int32, bitcast=True) & 0x7F800000
    bits = tl.where(largest > 1e-18, bits, 0x3F800000)
    inverse = (0x7F000000 - bits).to(tl.float32, bitcast=True)
    return (found * inverse[:, None]).to(tl.float16), bits.to(tl.float32, bitcast=True)


@triton.jit
def rows_of(inputs, row, num_rows, group, INPUTS: tl.constexpr):
    """Load a group's 128 inputs of all rows, (rows, 128); zeros beyond the last group."""
    at = row[:, None] * INPUTS + group * 128 + tl.arange(0, 128)[None, :]
    return tl.load(inputs + at, mask=(row < num_rows)[:, None] & (group * 128 < INPUTS), other=0.0)


@triton.jit
def pair_of(word, SHIFT: tl.constexpr, MASK: tl.constexpr):
    """Return two neighbours of each word, 1024 too large: (..., 2) float16.

    A float16 with the bits of 0x6400 is 1024, and its last bits count ones: no conversion.
    """
    both = ((word >> SHIFT) & MASK) | 0x64006400
    even = both.to(tl.int16).to(tl.float16, bitcast=True)
    return tl.join(even, (both >> 16).to(tl.int16).to(tl.float16, bitcast=True))


@triton.jit
def inputs_of(word, BITS: tl.constexpr):
    """Return the inputs of words (O, 16), less their zero: (O, 16, inputs of a word) float16."""
    if BITS == 4:
        evens = tl.join(pair_of(word, 0, 0x000F000F), pair_of(word, 8, 0x000F000F))
        odds = tl.join(pair_of(word, 4, 0x000F000F), pair_of(word, 12, 0x000F000F))
        found = tl.permute(tl.join(evens, odds), (0, 1, 3, 4, 2))
    else:
        found = tl.join(pair_of(word, 0, 0x00FF00FF), pair_of(word, 8, 0x00FF00FF))
        found = tl.permute(found, (0, 1, 3, 2))
    return tl.reshape(found, (word.shape[0], 16, 32 // BITS)) - (1024.0 + (1 << (BITS - 1)))


@triton.jit
def words_of(words, output, num_outputs, group, NUM_GROUPS: tl.constexpr):
    """Load a group of words for each output, (outputs, 16) int32."""
    at = (output[:, None] * NUM_GROUPS + group) * 16 + tl.arange(0, 16)[None, :]
    return tl.load(words + at, mask=output[:, None] < num_outputs, other=0)


@triton.jit
def weights_of(words, output, num_outputs, group, NUM_GROUPS: tl.constexpr, BITS: tl.constexpr):
    """Load a group of weights of each output, less their zero: (outputs, inputs) float16."""
    found = inputs_of(words_of(words, output, num_outputs, group, NUM_GROUPS), BITS)
    return tl.reshape(found, (output.shape[0], 512 // BITS))
