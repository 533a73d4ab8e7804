"""What each kernel is compiled with: types of arguments, and constants by model size."""

from __future__ import annotations

import math

import triton

from janus_edge.kernels.decoder_specs import code_specs, decoder_specs
from janus_edge.kernels.flow_update import flow_update_kernel
from janus_edge.kernels.look_up import look_up_kernel
from janus_edge.kernels.nearest_code import nearest_code_kernel
from janus_edge.kernels.sample import sample_kernel
from janus_edge.kernels.spec import Shape, Spec
from janus_edge.runtime.sizes import CodeSizes, FlowSizes

_EXACT = {"enable_fp_fusion": False}  # no fused multiply-adds: rounds as a CPU does


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


def specs(shape: Shape) -> tuple[Spec, ...]:
    """Return all kernels for these sizes and types."""
    between = (_sample(shape), _look_up(shape), _nearest_code(shape), _flow_update(shape))
    return (*between, *decoder_specs(shape), *code_specs(shape))


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
