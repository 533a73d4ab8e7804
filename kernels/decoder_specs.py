"""List the decoder's kernels and its heads': types of arguments, and constants by model size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from janus_edge.kernels.attend import attend_kernel
from janus_edge.kernels.attend_many import attend_many_kernel
from janus_edge.kernels.gate_up import gate_up_kernel
from janus_edge.kernels.head import head_kernel
from janus_edge.kernels.merge import merge_kernel
from janus_edge.kernels.norm import norm_kernel
from janus_edge.kernels.product import product_kernel
from janus_edge.kernels.quantized import INT4, INT8, ROWS, Packing
from janus_edge.kernels.repack import repack_kernel
from janus_edge.kernels.spec import Shape, Spec
from janus_edge.kernels.take import MOST_WIDTH, take_kernel
from janus_edge.kernels.write_slots import write_slots_kernel
from janus_edge.runtime.backends.cuda_passes import MANY

CHUNK = 128  # slots of the cache that a program attends to
_BLOCK = 32  # outputs of a program
_STAGES = {"num_stages": 3}  # loads ahead; tests/kernels/test_cubins.py bounds shared memory
_OVERLAPS = {"OVERLAPS": False}  # compile.py sets it, by GPU
PARTS = 4  # in which products over many inputs are left; the next norm adds them
TILE = 64  # rows of a program where rows are many


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
        constants={
            **{"INPUTS": inputs, "SPLITS": splits, "BLOCK": _BLOCK, "ROWS": ROWS},
            **_OVERLAPS,
        },
        options=_STAGES,
    )


_CACHE = {
    **_pointers("outputs", "cosines", "sines"),
    **_pointers("keys", "values", kind="fp16"),
    **dict.fromkeys(("positions", "lengths"), "*i64"),
}
_PART = ("span", "time", "first", "start")  # which rows of a call (write_slots.py)


def _attend(shape: Shape, name: str = "attend") -> Spec:
    return Spec(
        name=name,
        kernel=attend_kernel,
        arguments={
            **_CACHE,
            **_pointers("result", "stats"),
            **_numbers("num_slots", "num_chunks", *_PART),
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
        arguments={**_CACHE, **_numbers("num_slots", *_PART)},
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
            **dict.fromkeys(("positions", "lengths"), "*i64"),
            **{"result": "*fp16", **_numbers("num_chunks", *_PART)},
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
        constants={"WIDTH": shape.width, "BLOCK": _BLOCK, "ROWS": ROWS, **_OVERLAPS},
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
    counters = ("drawn", "counts", "ends", "passes", "places")
    names = (*counters, "row_positions", "row_lengths", "row_prompts")
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


def _attend_many(shape: Shape) -> Spec:
    return Spec(
        name=f"attend{MANY}",
        kernel=attend_many_kernel,
        arguments={**_CACHE, "result": "*fp16", **_numbers("num_slots", *_PART)},
        constants={
            **{"HEADS": shape.heads, "SHARED": shape.shared, "HALF": shape.head_dim // 2},
            **{"ROWS": TILE, "BLOCK": 32, **_OVERLAPS},
        },
        options={"num_stages": 2},
    )


def _with_many_rows(spec: Spec, **constants: int) -> Spec:
    """Return a kernel for passes with many rows, with other constants.

    There a product takes long by its arithmetic: it need not be divided by inputs, nor ask for its
    weights early.
    """
    kept = {name: value for name, value in spec.constants.items() if name not in _OVERLAPS}
    made = dataclasses.replace(spec, name=f"{spec.name}{MANY}", constants=kept | constants)
    return dataclasses.replace(made, num_warps=8)


def _many(found: dict[str, Spec]) -> Iterator[Spec]:
    """Yield the kernels of passes with many rows, but for attention."""
    for name in ("norm", "last_norm"):
        yield _with_many_rows(found[name], PARTS=1)
    for name in ("qkv", "output"):
        yield _with_many_rows(found[name], SPLITS=1, BLOCK=64, ROWS=TILE)
    # what it takes is float32, twice as large
    down = dataclasses.replace(found["down"], options={"num_stages": 2})
    yield _with_many_rows(down, SPLITS=1, BLOCK=64, ROWS=TILE)
    yield _with_many_rows(found["gate_up"], BLOCK=32, ROWS=TILE)


def decoder_specs(shape: Shape) -> tuple[Spec, ...]:
    """Return the kernels of the decoder and the text head."""
    few = (
        *(_norm(shape, "norm", "fp16"), _norm(shape, "last_norm", "fp32")),
        _product("qkv", shape.width, 1),
        *(_attend(shape), _attend(shape, "attend_kept"), _write_slots(shape), _merge(shape)),
        _product("output", shape.heads * shape.head_dim, PARTS),
        _gate_up(shape),
        _product("down", -(-shape.inner // 128) * 128, PARTS, "fp32"),
    )
    return (
        *few,
        *_many({spec.name: spec for spec in few}),
        _attend_many(shape),
        _head("text_logits", shape.width),
        *(_repack(packing) for packing in (INT4, INT8)),
    )


def code_specs(shape: Shape) -> tuple[Spec, ...]:
    """Return the kernels of the image head, and of passes over several positions."""
    return (
        _head("head_hidden", shape.width),
        _head("head_logits", shape.head_hidden),
        _take(shape),
    )
