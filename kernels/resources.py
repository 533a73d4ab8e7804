"""Read what a cubin needs of a GPU: registers, spills, instructions.

cuobjdump, which comes with Triton, prints its machine code; no GPU is needed.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton import knobs

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?);")
_BACK = re.compile(r"\bBRA\b.*?(0x[0-9a-f]+)")
_USED = re.compile(r"\b(REG|STACK|LOCAL):(\d+)")
_PRODUCT = "HMMA"  # of 16 rows, 8 outputs and 16 inputs


@dataclass(frozen=True, kw_only=True)
class Resources:
    """A cubin's needs.

    Attributes:
        registers: Of a thread.
        spilled: Bytes of a thread that are not in registers: its stack and local memory.
        instructions: Of the whole kernel.
        in_loop: Of a turn of the loop that has the products; 0 without such a loop.
        products: Of tensor cores, in that turn.
        code: The machine code as text.
    """

    registers: int
    spilled: int
    instructions: int
    in_loop: int
    products: int
    code: str


def dump(path: Path, *words: str) -> str:
    """Return what cuobjdump says of a cubin."""
    command = [str(knobs.nvidia.cuobjdump.path), *words, str(path)]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def resources(path: Path) -> Resources:
    """Read a cubin."""
    usage, code = dump(path, "--dump-resource-usage"), dump(path, "-sass")
    used = {kind: int(number) for kind, number in _USED.findall(usage)}
    found = [(int(at, 16), text) for at, text in _INSTRUCTION.findall(code)]
    loop = _loop(found)
    return Resources(
        registers=used["REG"],
        spilled=used["STACK"] + used["LOCAL"],
        instructions=len(found),
        in_loop=len(loop),
        products=sum(_PRODUCT in text for text in loop),
        code=code,
    )


def _loop(found: list[tuple[int, str]]) -> list[str]:
    """Return the shortest loop that has products of tensor cores; empty without one."""
    loops = []
    for at, text in found:
        back = _BACK.search(text)
        if back and (start := int(back[1], 16)) < at:
            body = [each for place, each in found if start <= place <= at]
            if any(_PRODUCT in each for each in body):
                loops.append(body)
    return min(loops, key=len, default=[])


def turn_weights(
    entry: dict[str, Any], found: Resources, *, bits: int = 4, matrices: int = 1
) -> int:
    """Return how many weights a program multiplies in a turn of its loop.

    Args:
        entry: The kernel's entry of a manifest.
        found: What its cubin needs; the compiler may have put several turns into one.
        bits: Of a weight.
        matrices: That a turn multiplies with.
    """
    block, warps, inputs = entry["constants"]["BLOCK"], entry["threads"] // 32, 512 // bits
    own = -(-block // (8 * warps)) * inputs // 16 * matrices
    return int(block * inputs * matrices * max(1, found.products // own))
