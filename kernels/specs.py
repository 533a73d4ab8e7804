"""What each kernel is compiled with: types of arguments, and constants by model size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import triton

from janus_edge.kernels.attend import attend_kernel, write_slots_kernel
from janus_edge.kernels.flow_update import flow_update_kernel
from janus_edge.kernels.gate_up import gate_up_kernel
from janus_edge.kernels.head import head_kernel
from janus_edge.kernels.look_up import look_up_kernel
from janus_edge.kernels.merge import merge_kernel
from janus_edge.kernels.nearest_code import nearest_code_kernel
from janus_edge.kernels.norm import norm_kernel
from janus_edge.kernels.product import product_kernel
from janus_edge.kernels.quantized import INT4, INT8, Packing
from janus_edge.kernels.repack import repack_kernel
from janus_edge.kernels.sample import sample_kernel
from janus_edge.kernels.take import MOST_WIDTH, take_kernel
from janus_edge.runtime.sizes import CodeSizes, FlowSizes


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


_EXACT = {"enable_fp_fusion": False}  # no fused multiply-adds: rounds as a CPU does


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


def _sample(shape: Shape) -> Spec:
    return Spec(
        name="sample",
        kernel=sample_kernel,
        arguments={
            "logits": f"*{shape.logits}",
            **dict.fromkeys(("codes", "seeds", "positions"), "*i64"),
            **{"scales": "*fp32", "top_ks": "*i32"},
            **dict.fromkeys(("stream", "num_images"), "i32"),
        },
        constants={
            "NUM_CODES": shape.num_codes,
            "BLOCK": triton.next_power_of_2(shape.num_codes),
        },
        num_warps=16,
        options=_EXACT,
    )


def _look_up(shape: Shape) -> Spec:
    return Spec(
        name="look_up",
        kernel=look_up_kernel,
        arguments={
            **{"codes": "*i64", "table": "*fp16", "embeds": f"*{shape.vectors}"},
            **dict.fromkeys(("drawn", "positions", "row_positions", "row_lengths"), "*i64"),
            **dict.fromkeys(("num_images", "num_rows", "num_codes"), "i32"),
        },
        constants={"WIDTH": shape.width, "BLOCK": 2048},
        num_warps=16,
    )


def _nearest_code(shape: Shape) -> Spec:
    return Spec(
        name="nearest_code",
        kernel=nearest_code_kernel,
        arguments={"vectors": "*fp32", "table": "*fp32", "codes": "*i64", "num_vectors": "i32"},
        constants={
            **{"NUM_CODES": shape.num_codes, "NORMALIZE": True, "DIM": shape.code_dim},
            **{"ROWS": 16, "BLOCK": 256},
        },
    )


def _flow_update(shape: Shape) -> Spec:
    return Spec(
        name="flow_update",
        kernel=flow_update_kernel,
        arguments={
            **{"latents": "*fp32", "velocities": f"*{shape.vectors}"},
            **dict.fromkeys(("before", "denoised", "step_factors"), "*fp32"),
            **{"steps": "*i64", "times": "*fp32", "num_images": "i32"},
        },
        constants={"SIZE": shape.latent_size, "BLOCK": 1024},
        num_warps=16,
        options=_EXACT,
    )


CHUNK = 128  # slots of the cache that a program attends to
_BLOCK = 32  # outputs of a program
_STAGES = {"num_stages": 3}  # loads ahead: what fits into 48 KB of shared memory on every GPU
_OVERLAPS = {"OVERLAPS": False}  # compile.py sets it, by GPU
PARTS = 4  # in which products over many inputs are left; the next norm adds them


def _pointers(*names: str, kind: str = "fp32") -> dict[str, str]:
    return dict.fromkeys(names, f"*{kind}")


def _numbers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "i32")


def _norm(shape: Shape, name: str, result: str) -> Spec:
    return Spec(
        name=name,
        kernel=norm_kernel,
        arguments={
            **_pointers("stream", "parts", "norm", "kept"),
            **{"result": f"*{result}", "num_rows": "i32", "epsilon": "fp32"},
        },
        constants={"WIDTH": shape.width, "PARTS": PARTS, **_OVERLAPS},
        num_warps=8,
    )


def _product(name: str, inputs: int, splits: int, kind: str = "fp16") -> Spec:
    return Spec(
        name=name,
        kernel=product_kernel,
        arguments={
            **{"inputs": f"*{kind}", "words": "*i32"},
            **_pointers("scales", "result"),
            **_numbers("num_rows", "num_outputs"),
        },
        constants={"INPUTS": inputs, "SPLITS": splits, "BLOCK": _BLOCK, **_OVERLAPS},
        options=_STAGES,
    )


_CACHE = {
    **_pointers("outputs", "cosines", "sines"),
    **_pointers("keys", "values", kind="fp16"),
    "positions": "*i64",
}


def _attend(shape: Shape, name: str = "attend") -> Spec:
    return Spec(
        name=name,
        kernel=attend_kernel,
        arguments={
            **_CACHE,
            **_pointers("result", "stats"),
            **_numbers("num_slots", "num_chunks", "span"),
        },
        constants={
            **{"HEADS": shape.heads, "SHARED": shape.shared, "HALF": shape.head_dim // 2},
            **{"CHUNK": CHUNK, "BLOCK": 32, "WRITES": name == "attend"},
            **_OVERLAPS,
        },
    )


def _write_slots(shape: Shape) -> Spec:
    return Spec(
        name="write_slots",
        kernel=write_slots_kernel,
        arguments={**_CACHE, **_numbers("num_slots", "span")},
        constants={
            "KV_HEADS": shape.heads // shape.shared,
            "QUERIES": shape.heads * shape.head_dim,
            "HALF": shape.head_dim // 2,
            **_OVERLAPS,
        },
        num_warps=1,
    )


def _merge(shape: Shape) -> Spec:
    return Spec(
        name="merge",
        kernel=merge_kernel,
        arguments={
            **_pointers("attended", "stats"),
            **{"positions": "*i64", "result": "*fp16", "num_chunks": "i32"},
        },
        constants={
            **{"HEADS": shape.heads, "HEAD": shape.head_dim, "CHUNK": CHUNK},
            **_OVERLAPS,
        },
        num_warps=1,
    )


def _gate_up(shape: Shape) -> Spec:
    return Spec(
        name="gate_up",
        kernel=gate_up_kernel,
        arguments={
            **{"inputs": "*fp16", "words": "*i32"},
            **_pointers("scales", "result"),
            **_numbers("num_rows", "num_inner"),
        },
        constants={"WIDTH": shape.width, "BLOCK": _BLOCK, **_OVERLAPS},
        options=_STAGES,
    )


def _head(name: str, inputs: int) -> Spec:
    return Spec(
        name=name,
        kernel=head_kernel,
        arguments={
            **{"hidden": "*fp32", "words": "*i32"},
            **_pointers("scales", "bias", "result"),
            **_numbers("num_rows", "num_outputs"),
        },
        constants={"WIDTH": inputs, "GELU": name == "head_hidden", "BLOCK": _BLOCK, **_OVERLAPS},
        options=_STAGES,
    )


def _repack(packing: Packing) -> Spec:
    return Spec(
        name=f"repack{packing.bits}",
        kernel=repack_kernel,
        arguments={
            **{"tiles": "*u8", "tile_scales": "*fp32", "words": "*i32", "scales": "*fp32"},
            **_numbers("num_outputs", "num_groups"),
        },
        constants={"BITS": packing.bits, "BLOCK": packing.block},
    )


def _take(shape: Shape) -> Spec:
    names = ("drawn", "counts", "ends", "passes", "places", "row_positions", "row_lengths")
    return Spec(
        name="take",
        kernel=take_kernel,
        arguments={
            **{"chosen": "*i64", "table": "*fp16", "embeds": f"*{shape.vectors}"},
            **dict.fromkeys(names, "*i64"),
            **_numbers("num_chosen", "num_positions", "num_images", "num_rows", "num_codes"),
        },
        constants={"WIDTH": shape.width, "BLOCK": 2048, "MOST": MOST_WIDTH},
        num_warps=16,
    )


def decoder_specs(shape: Shape) -> tuple[Spec, ...]:
    """Return the kernels of the decoder and its heads, and of passes over several positions."""
    return (
        *(_norm(shape, "norm", "fp16"), _norm(shape, "last_norm", "fp32")),
        _product("qkv", shape.width, 1),
        *(_attend(shape), _attend(shape, "attend_kept"), _write_slots(shape), _merge(shape)),
        _product("output", shape.heads * shape.head_dim, PARTS),
        _gate_up(shape),
        _product("down", -(-shape.inner // 128) * 128, PARTS, "fp32"),
        _head("head_hidden", shape.width),
        _head("head_logits", shape.head_hidden),
        _head("text_logits", shape.width),
        *(_repack(packing) for packing in (INT4, INT8)),
        _take(shape),
    )


def specs(shape: Shape) -> tuple[Spec, ...]:
    """Return all kernels for these sizes and types."""
    between = (_sample(shape), _look_up(shape), _nearest_code(shape), _flow_update(shape))
    return (*between, *decoder_specs(shape))


# Kernels that each family's loop launches.
_OF_A_FAMILY = {CodeSizes: ("sample", "look_up"), FlowSizes: ("flow_update",)}


def specs_of(sizes: CodeSizes | FlowSizes) -> list[Spec]:
    """Return the kernels that draw with a model of these sizes, beside its engines."""
    if isinstance(sizes, CodeSizes):
        shape = Shape(num_codes=sizes.codebook_size, width=sizes.hidden_size)
    else:
        shape = Shape(latent_size=math.prod(sizes.latent_shape))
    names = _OF_A_FAMILY[type(sizes)]
    return [spec for spec in specs(shape) if spec.name in names]
