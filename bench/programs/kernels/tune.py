"""Choose how products are divided on each GPU, and write kernels/tuning.json.

python -m janus_edge.bench.programs.kernels.tune             # every GPU there are cubins for
python -m janus_edge.bench.programs.kernels.tune --measure   # this machine's GPU, by time

Each configuration (outputs of a program, warps, stages) is compiled for Janus-Pro-1B's sizes. One
that spills is left out. Without a GPU the choice follows from the compiled code by
``estimate_us``; the table says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from janus_edge.bench.programs.kernels.cubins import open_gpu, times
from janus_edge.bench.programs.kernels.gpus import GPUS, DataSheet
from janus_edge.bench.programs.kernels.step import SIZES
from janus_edge.kernels.compile import TARGETS, compile_kernel
from janus_edge.kernels.quantized import ROWS
from janus_edge.kernels.resources import Resources, resources, turn_weights
from janus_edge.kernels.spec import Shape, Spec
from janus_edge.kernels.specs import specs
from janus_edge.kernels.tuning import TABLE, configured
from janus_edge.runtime.backends.cubins import Kernels
from janus_edge.runtime.backends.cuda_passes import MANY, MOST_MANY
from janus_edge.runtime.cuda import Cuda
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.manifest import Kernel

SHAPE = Shape()
_MOST_SHARED = 99 * 1024  # bytes of a program: what every GPU allows
_KEPT = 2**28  # bytes of weights that take turns, more than caches hold


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Configurations that are weighed.

    Attributes:
        blocks: Outputs of a program.
        warps: Of a program.
        first: Stages with which the block and the warps are chosen.
        stages: The others.
    """

    blocks: tuple[int, ...]
    warps: tuple[int, ...]
    first: int
    stages: tuple[int, ...]


FEW_ROWS = Choices(blocks=(16, 32, 64), warps=(1, 2, 4), first=3, stages=(2, 4, 5))
MANY_ROWS = Choices(blocks=(32, 64, 128), warps=(4, 8), first=2, stages=(3, 4))


_LATENCY_NS, _CHAIN_CYCLES = 600.0, 200  # of a load from memory; of what follows it in a turn
_ISSUED = 4  # instructions of warps that a multiprocessor starts per cycle
_OF_A_WARP = 0.5  # of one warp per cycle: many wait for the one before, which takes 4 cycles


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product of a decode step, or of a prompt.

    Attributes:
        spec: The kernel.
        outputs: It computes so many, per matrix.
        inputs: Of each.
        matrices: That it multiplies with.
        bits: Of a weight.
        rows: That it multiplies.
    """

    spec: Spec
    outputs: int
    inputs: int
    matrices: int = 1
    bits: int = 4
    rows: int = 2

    @property
    def choices(self) -> Choices:
        """The configurations that are weighed."""
        return FEW_ROWS if self.rows <= ROWS else MANY_ROWS

    @property
    def splits(self) -> int:
        """Programs that share the inputs of a block of outputs."""
        return int(self.spec.constants.get("SPLITS", 1))

    @property
    def num_bytes(self) -> float:
        """Bytes of weights and their scales."""
        weights = self.outputs * self.inputs * self.matrices
        return weights * (self.bits / 8 + 4 / (128 if self.bits == 4 else 32))

    def programs(self, block: int) -> int:
        """Return how many programs a launch has."""
        tiles = -(-self.rows // self.spec.constants.get("ROWS", ROWS))
        return -(-self.outputs // block) * self.splits * tiles


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A configuration of a product, compiled.

    Attributes:
        entry: Its entry of a manifest.
        needs: What its cubin needs.
        stages: Turns of its loop whose loads are under way at once, and one more.
        folder: Where the cubin is.
    """

    entry: dict[str, Any]
    needs: Resources
    stages: int
    folder: Path


def products() -> Iterator[Product]:
    """Yield the products of a decode step, then those of many rows, and their sizes."""
    found = {spec.name: spec for spec in specs(SHAPE)}
    attention = SHAPE.heads * SHAPE.head_dim
    qkv = attention + 2 * SHAPE.heads // SHAPE.shared * SHAPE.head_dim
    for ending, rows in (("", 2), (MANY, MOST_MANY)):
        of = partial(Product, rows=rows)
        yield of(spec=found[f"qkv{ending}"], outputs=qkv, inputs=SHAPE.width)
        yield of(spec=found[f"output{ending}"], outputs=SHAPE.width, inputs=attention)
        inner = -(-SHAPE.inner // 128) * 128
        yield of(
            spec=found[f"gate_up{ending}"], outputs=SHAPE.inner, inputs=SHAPE.width, matrices=2
        )
        yield of(spec=found[f"down{ending}"], outputs=SHAPE.width, inputs=inner)
    hidden, codes = SHAPE.head_hidden, SHAPE.num_codes
    yield Product(spec=found["head_hidden"], outputs=hidden, inputs=SHAPE.width, bits=8)
    yield Product(spec=found["head_logits"], outputs=codes, inputs=hidden, bits=8)
    yield Product(spec=found["text_logits"], outputs=SIZES.vocab_size, inputs=SHAPE.width, bits=8)


def estimate_us(gpu: DataSheet, product: Product, made: Compiled) -> float:
    """Return how long a launch takes, in microseconds: the longest of three bounds.

    The busiest multiprocessor starts all instructions of its programs. A turn of a program's loop
    takes as long as a warp's instructions, and waits for what it loads, divided by the turns whose
    loads are under way. The memory gives its bandwidth only while enough is asked for at once
    (Little's law).

    Args:
        gpu: Where it runs.
        product: What the launch does.
        made: How it is divided.
    """
    entry, found = made.entry, made.needs
    block, warps = entry["constants"]["BLOCK"], entry["threads"] / 32
    programs = product.programs(block)
    weights = turn_weights(entry, found, bits=product.bits, matrices=product.matrices)
    turns = block * product.inputs * product.matrices / product.splits / weights
    resident = _resident(entry, found, gpu)
    most = math.ceil(programs / gpu.processors)
    rest = found.instructions - found.in_loop
    issued = (turns * found.in_loop + rest) * warps * most / _ISSUED
    latency, ahead = _LATENCY_NS * gpu.clock, made.stages - 1
    turn = max(_CHAIN_CYCLES, latency / ahead, found.in_loop / _OF_A_WARP)
    waits = math.ceil(most / resident) * (latency + turns * turn)
    at_once = min(programs, resident * gpu.processors) * ahead * weights * product.bits / 8
    share = min(1.0, at_once / (gpu.bandwidth * _LATENCY_NS))
    memory_us = product.num_bytes / (gpu.bandwidth * share) / 1e3
    return max(max(issued, waits) / gpu.clock / 1e3, memory_us)


def _resident(entry: dict[str, Any], found: Resources, gpu: DataSheet) -> int:
    """Return how many programs a multiprocessor holds at once."""
    threads, shared = entry["threads"], entry["shared_bytes"] + 1024
    registers = -(-found.registers // 8) * 8 * threads
    limits = (65536 // registers, gpu.shared * 1024 // shared, gpu.threads // threads, 32)
    return max(1, min(limits))


def main() -> None:
    """Choose for all GPUs, or for this machine's, print the choices and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="by time, on this machine's GPU")
    known = [f"sm_{target}" for target in TARGETS]
    parser.add_argument("--target", action="append", choices=known, help="default: all")
    options = parser.parse_args()
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    cuda = open_gpu("tune") if options.measure else None
    named = [int(each.removeprefix("sm_")) for each in options.target or known]
    for target in [cuda.capability] if cuda else named:
        gpu = GPUS[target]
        by = cuda.name if cuda else f"compiled code, for {gpu.name}"
        if cuda is None and "compiled code" not in table.get(f"sm_{target}", {"by": by})["by"]:
            continue  # a time is worth more than an estimate
        cost = partial(_measured_us, cuda) if cuda else partial(estimate_us, gpu)
        # an estimate knows nothing of tensor cores, which bound products of many rows
        weighed = (each for each in products() if cuda or each.rows <= ROWS)
        chosen = {each.spec.name: _chosen(each, target, cost) for each in weighed}
        table[f"sm_{target}"] = {"by": by, "kernels": chosen}
        with atomic_write(TABLE) as part:
            part.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


Cost = Callable[[Product, Compiled], float]


def _chosen(product: Product, target: int, cost: Cost) -> dict[str, int]:
    """Return the fastest configuration; of equal ones the one with the least shared memory.

    The block and the warps are chosen first, then the stages.
    """
    found: list[tuple[float, int, dict[str, int]]] = []
    with tempfile.TemporaryDirectory() as own:
        folder = Path(own)

        def weigh(block: int, warps: int, stages: int) -> None:
            config = {"block": block, "warps": warps, "stages": stages}
            entry = compile_kernel(
                configured(product.spec, **config), target, folder, use_table=False
            )
            needs = resources(folder / entry["file"])
            if not needs.spilled and needs.in_loop and entry["shared_bytes"] <= _MOST_SHARED:
                made = Compiled(entry=entry, needs=needs, stages=stages, folder=folder)
                us = cost(product, made)
                found.append((round(us, 2), entry["shared_bytes"], config))

        choices = product.choices
        for block, warps in itertools.product(choices.blocks, choices.warps):
            weigh(block, warps, choices.first)
        best = min(found, key=lambda each: each[:2])[2]
        for stages in choices.stages:
            weigh(best["block"], best["warps"], stages)
    us, _, config = min(found, key=lambda each: each[:2])
    print(f"sm_{target} {product.spec.name}: {config}, {us:.2f} us, of {len(found)}")
    return config


def _measured_us(cuda: Cuda, product: Product, made: Compiled) -> float:
    """Return the time of a launch, in a graph of launches with weights in turn."""
    kernels = Kernels(cuda, made.folder, (Kernel.model_validate(made.entry),))
    rows, name = product.rows, product.spec.name
    words = -(-product.outputs * product.matrices * product.inputs * product.bits // 32)
    count = max(2, _KEPT // (4 * words))
    block = 128 if product.bits == 4 else 32
    weights = cuda.zeros((count, words), "int32")
    scales = cuda.zeros((words * 32 // product.bits // block,), "float32")
    inputs = next(iter(product.spec.arguments.values()))
    kind = "float32" if inputs == "*fp32" else "float16"
    given = cuda.zeros((rows, product.inputs), kind)
    result = cuda.zeros((product.splits * rows, product.outputs), "float32")
    bias = [cuda.zeros((product.outputs,), "float32")] if product.bits == 8 else []
    programs = product.programs(made.entry["constants"]["BLOCK"])

    def launches() -> None:
        for turn in range(count):
            page = weights.view((words,), turn * words)
            values = (given, page, scales, *bias, result, rows, product.outputs)
            kernels.launch(name, programs, *values, overlaps=turn > 0)

    launches()  # loads the cubin
    return min(times(cuda, cuda.capture(launches))) * 1e3 / count


if __name__ == "__main__":
    main()
