"""Define what a kernel is compiled with: its types and constants, and a model's sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A kernel for given types.

    Attributes:
        name: Name of the kernel in manifests.
        kernel: The Triton function.
        arguments: Triton type of each argument by name; pointers begin with "*".
        constants: Compile-time constants by name.
        num_warps: Warps per block.
        options: More options of Triton's compiler.
    """

    name: str
    kernel: Any
    arguments: dict[str, str]
    constants: dict[str, Any]
    num_warps: int = 4
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes and types that kernels are compiled for.

    Attributes:
        num_codes: Codes in the codebook.
        code_dim: Channels of a code.
        width: Width of the language model.
        latent_size: Numbers in a flow's latent.
        inner: Numbers within an MLP.
        heads: Heads of queries.
        shared: How many of them share a head of keys and values.
        head_dim: Numbers per head.
        head_hidden: Numbers between the image head's two products.
        logits: Type of the logits that engines return.
        vectors: Type of the vectors that engines take.
    """

    num_codes: int = 16384
    code_dim: int = 8
    width: int = 2048
    latent_size: int = 4 * 48 * 48
    inner: int = 5632
    heads: int = 16
    shared: int = 1
    head_dim: int = 128
    head_hidden: int = 2048
    logits: str = "fp32"
    vectors: str = "fp32"
