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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from janus_edge.kernels.spec import Shape, Spec
from janus_edge.kernels.specs import specs
from janus_edge.kernels.tuning import tuned
from janus_edge.runtime.cuda import ALIGNMENT
from janus_edge.runtime.files import atomic_write

TARGETS = (80, 86, 87, 89, 90, 100, 120)  # compute capabilities, times ten
OVERLAPS_FROM = 90  # kernels begin before those before them end (overlap.py)


def constants_of(spec: Spec, target: int) -> dict[str, Any]:
    """Return a kernel's constants on a GPU: those that may overlap do so where GPUs can.

    Args:
        spec: The kernel.
        target: Compute capability, times ten.
    """
    overlaps = {"OVERLAPS": target >= OVERLAPS_FROM} if "OVERLAPS" in spec.constants else {}
    return spec.constants | overlaps


def compile_kernel(
    spec: Spec, target: int, folder: Path, *, use_table: bool = True
) -> dict[str, Any]:
    """Write a kernel's cubin and return its entry for a manifest.

    Args:
        spec: The kernel.
        target: Compute capability, times ten.
        folder: Where to write the cubin.
        use_table: Divide a product as the table says (tuning.py), not as ``spec`` says.

    Raises:
        RuntimeError: TRITON_INTERPRET is set, so that nothing can be compiled; or the kernel needs
            scratch memory, which the launcher does not pass.
    """
    if not isinstance(spec.kernel, triton.JITFunction):
        raise RuntimeError("kernels do not compile under TRITON_INTERPRET; unset it")
    spec = tuned(spec, target) if use_table else spec
    constants = constants_of(spec, target)
    pointers = [i for i, kind in enumerate(spec.arguments.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=spec.kernel,
        signature=spec.arguments | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
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
        "constants": constants,
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
