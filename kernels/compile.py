"""Compile kernels ahead of time, on any machine: one cubin each, and what a launch needs to know.

    python -m janus_edge.kernels.compile FOLDER [--target sm_90]

A launch needs neither Triton nor torch. It takes the function ``symbol`` of the module ``file``,
with ``threads`` per block, ``shared_bytes`` of dynamic shared memory, a grid of programs along x,
and ``arguments`` in order.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from janus_edge.kernels.flow_update import flow_update_kernel
from janus_edge.kernels.look_up import look_up_kernel
from janus_edge.kernels.nearest_code import nearest_code_kernel
from janus_edge.kernels.sample import sample_kernel
from janus_edge.runtime.cuda import ALIGNMENT
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.sizes import CodeSizes, FlowSizes

TARGETS = (80, 86, 87, 89, 90, 100, 120)  # compute capabilities, times ten


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
        logits: Type of the logits that engines return.
        vectors: Type of the vectors that engines take.
    """

    num_codes: int = 16384
    code_dim: int = 8
    width: int = 2048
    latent_size: int = 4 * 48 * 48
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


def specs(shape: Shape) -> tuple[Spec, ...]:
    """Return all kernels for these sizes and types."""
    return tuple(spec(shape) for spec in (_sample, _look_up, _nearest_code, _flow_update))


# Kernels that each family's loop launches.
_OF_A_FAMILY = {CodeSizes: ("sample", "look_up"), FlowSizes: ("flow_update",)}


def specs_of(sizes: CodeSizes | FlowSizes) -> list[Spec]:
    """Return the kernels that draw with a model of these sizes."""
    if isinstance(sizes, CodeSizes):
        shape = Shape(num_codes=sizes.codebook_size, width=sizes.hidden_size)
    else:
        shape = Shape(latent_size=math.prod(sizes.latent_shape))
    names = _OF_A_FAMILY[type(sizes)]
    return [spec for spec in specs(shape) if spec.name in names]


def compile_kernel(spec: Spec, target: int, folder: Path) -> dict[str, Any]:
    """Write a kernel's cubin and return its entry for a manifest.

    Args:
        spec: The kernel.
        target: Compute capability, times ten.
        folder: Where to write the cubin.

    Raises:
        RuntimeError: TRITON_INTERPRET is set, so that nothing can be compiled; or the kernel needs
            scratch memory, which the launcher does not pass.
    """
    if not isinstance(spec.kernel, triton.JITFunction):
        raise RuntimeError("kernels do not compile under TRITON_INTERPRET; unset it")
    pointers = [i for i, kind in enumerate(spec.arguments.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=spec.kernel,
        signature=spec.arguments | dict.fromkeys(spec.constants, "constexpr"),
        constexprs=spec.constants,
        attrs={(i,): [["tt.divisibility", ALIGNMENT]] for i in pointers},
    )
    options = {"num_warps": spec.num_warps, **spec.options}
    made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    scratch = made.metadata.global_scratch_size, made.metadata.profile_scratch_size
    if scratch != (0, 0):  # the launcher passes no such memory
        raise RuntimeError(f"{spec.name} for sm_{target}: needs {scratch} bytes of scratch memory")
    cubin, path = made.asm["cubin"], folder / f"{spec.name}.sm_{target}.cubin"
    with atomic_write(path) as part:
        part.write_bytes(cubin)
    return {
        "name": spec.name,
        "target": f"sm_{target}",
        "file": path.name,
        "sha256": hashlib.sha256(cubin).hexdigest(),
        "symbol": made.metadata.name,
        "threads": made.metadata.num_warps * 32,
        "shared_bytes": made.metadata.shared,
        # After a kernel's own arguments, Triton expects two addresses of scratch memory; these
        # kernels do not use them.
        "arguments": [*spec.arguments.values(), "*scratch", "*scratch"],
        "constants": spec.constants,
    }


def main(folder: Path, targets: Sequence[int] = TARGETS) -> None:
    """Compile all kernels for Janus-Pro-1B's and JanusFlow's sizes, and write ``kernels.json``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"{folder}: {error.strerror}; name a folder that can be written")
    entries = [
        compile_kernel(spec, target, folder) for spec in specs(Shape()) for target in targets
    ]
    with atomic_write(folder / "kernels.json") as part:
        part.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: {len(entries)} cubins")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compile all kernels for all GPUs.")
    parser.add_argument("folder", type=Path)
    known = [f"sm_{target}" for target in TARGETS]
    parser.add_argument("--target", action="append", choices=known, help="default: all")
    options = parser.parse_args()
    main(options.folder, [int(each.removeprefix("sm_")) for each in options.target or known])
