"""Time the cubins that bundles hold, launched through the driver alone, by replay of a CUDA graph.

python -m janus_edge.bench.programs.kernels.cubins --record bench/records/kernels.jsonl

A graph holds many launches, so the times include no time of the host. Inputs take turns in more
memory than the GPU's cache holds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.diagnostics.records import append_record, checkout_commit
from janus_edge.kernels.compile import TARGETS, compile_kernel
from janus_edge.kernels.spec import Shape
from janus_edge.kernels.specs import specs
from janus_edge.runtime.backends.cubins import Kernels
from janus_edge.runtime.cuda import Cuda, DeviceArray, Event
from janus_edge.runtime.errors import DeviceError
from janus_edge.runtime.flow import NUM_FACTORS
from janus_edge.runtime.manifest import Kernel

SCHEMA = "cubins/2"
LAUNCHES, REPLAYS = 200, 21
COPIED = 2**28  # bytes, to measure the memory bandwidth
PAGES = 1024  # copies of the larger inputs: 134 MB of logits, more than caches hold
SHAPE = Shape()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A launch to time.

    Attributes:
        kernel: Name of the kernel.
        shape: What it works on, in words.
        launch: Launches the kernel on one of ``PAGES`` inputs.
        num_bytes: Bytes that must be read and written at least.
    """

    kernel: str
    shape: str
    launch: Callable[[int], None]
    num_bytes: int


def main() -> None:
    """Parse the command line, measure, print and record.

    It exits if there is no GPU, or none that there are cubins for.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    cuda = open_gpu("cubins")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        entries = [compile_kernel(spec, cuda.capability, folder) for spec in specs(SHAPE)]
        kernels = Kernels(cuda, folder, tuple(map(Kernel.model_validate, entries)))
        speed = copy_speed(cuda)
        rows = [_measured(cuda, case, speed) for case in _cases(cuda, kernels)]
    for row in rows:
        us, fraction = row["us"]["p50"], row["bandwidth_fraction"]
        print(f"{row['kernel']}, {row['shape']}: {us:.2f} us, {fraction:.1%} of the bandwidth")
    if options.record:
        record = {
            "schema": SCHEMA,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": checkout_commit(),
            "device": cuda.name,
            "copy_gb_s": round(speed / 1e9, 1),
            "cases": rows,
        }
        append_record(options.record, record)


def open_gpu(program: str) -> Cuda:
    """Return this machine's GPU; exit if there is none, or none that there are cubins for.

    Args:
        program: Name of the program, which begins the line that it exits with.
    """
    try:
        cuda = Cuda()
    except DeviceError as error:
        sys.exit(f"{program}: {error}")
    if cuda.capability not in TARGETS:
        sys.exit(f"{program}: no cubins for sm_{cuda.capability}; there are {TARGETS}")
    return cuda


def _cases(cuda: Cuda, kernels: Kernels) -> Iterator[Case]:
    """Yield all cases."""
    for images, top_k in ((1, 0), (1, 256), (8, 0)):
        yield _sample(cuda, kernels, images, top_k)
    for images in (1, 8):
        yield _look_up(cuda, kernels, images)
    for images in (1, 8):
        yield _flow_update(cuda, kernels, images)


def _random(cuda: Cuda, *shape: int) -> DeviceArray:
    """Return random numbers on the device."""
    return cuda.uploaded(np.random.default_rng(0).standard_normal(shape, np.float32))


def _sample(cuda: Cuda, kernels: Kernels, images: int, top_k: int) -> Case:
    """Return a case of the sampler, with guidance."""
    rows, codes = 2 * images, SHAPE.num_codes
    pages = _random(cuda, PAGES // images, rows, codes)
    views = [pages.view((rows, codes), i * rows * codes) for i in range(PAGES // images)]
    drawn, seeds, positions = (cuda.uploaded(np.arange(images)) for _ in range(3))
    scales, top_ks = (
        cuda.uploaded(np.array([5.0, 0.9], np.float32)),
        cuda.uploaded(np.array([top_k], np.int32)),
    )

    def launch(turn: int) -> None:
        logits = views[turn % len(views)]
        arrays = (logits, drawn, seeds, positions, scales, top_ks)
        kernels.launch("sample", images, *arrays, 0, images)

    shape = f"{images} images of {codes} codes" + (f", top-k {top_k}" if top_k else "")
    return Case(kernel="sample", shape=shape, launch=launch, num_bytes=views[0].nbytes)


def _look_up(cuda: Cuda, kernels: Kernels, images: int) -> Case:
    """Return a case of the look-up."""
    rows, width = 2 * images, SHAPE.width
    table = cuda.zeros((SHAPE.num_codes, width), "float16")
    made = np.random.default_rng(1).integers(0, SHAPE.num_codes, (PAGES, images))
    drawn = cuda.zeros((images, 10**6), "int64")
    counters = [cuda.uploaded(np.zeros(size, np.int64)) for size in (images, rows, rows)]
    embeds = cuda.array((rows, width), "float32")
    codes = [cuda.uploaded(each) for each in made]

    def launch(turn: int) -> None:
        arrays = (codes[turn % PAGES], table, embeds, drawn, *counters)
        kernels.launch("look_up", images, *arrays, images, rows, 10**6)

    moved = images * width * 2 + embeds.nbytes
    return Case(
        kernel="look_up",
        shape=f"{images} images, width {width}",
        launch=launch,
        num_bytes=moved,
    )


def _flow_update(cuda: Cuda, kernels: Kernels, images: int) -> Case:
    """Return a case of a flow's step."""
    size = SHAPE.latent_size
    pages = PAGES // images
    state = [[_random(cuda, images, size) for _ in range(3)] for _ in range(pages)]
    velocities = [_random(cuda, 2 * images, size) for _ in range(pages)]
    steps = (LAUNCHES + 1) * (REPLAYS + 2)
    table = cuda.uploaded(np.tile(np.array([2, 0.5, 1e-6, 0.5, 0.5], np.float32), (steps, 1)))
    assert table.shape[1] == NUM_FACTORS
    counters = [cuda.uploaded(np.zeros(images, kind)) for kind in (np.int64, np.float32)]

    def launch(turn: int) -> None:
        z, before, denoised = state[turn % pages]
        arrays = (z, velocities[turn % pages], before, denoised, table, *counters)
        kernels.launch("flow_update", images, *arrays, images)

    moved = 5 * state[0][0].nbytes + velocities[0].nbytes
    shape = f"{images} latents of {size}"
    return Case(kernel="flow_update", shape=shape, launch=launch, num_bytes=moved)


def copy_speed(cuda: Cuda) -> float:
    """Return the bytes per second that copies on the device read and write."""
    source, target = (cuda.zeros((COPIED,), "uint8") for _ in range(2))
    copies = times(cuda, lambda: cuda.copy(target.address, source.address, COPIED))
    return 2 * COPIED / (float(np.median(copies)) / 1e3)


def _measured(cuda: Cuda, case: Case, speed: float) -> dict[str, Any]:
    """Return microseconds per launch, and the fraction of the memory bandwidth."""
    case.launch(0)  # loads the cubin

    def launches() -> None:
        for turn in range(LAUNCHES):
            case.launch(turn)

    times_us = np.array(times(cuda, cuda.capture(launches))) * 1e3 / LAUNCHES
    p20, p50, p80 = np.percentile(times_us, [20, 50, 80]).round(3).tolist()
    return {
        "kernel": case.kernel,
        "shape": case.shape,
        "us": {"p20": p20, "p50": p50, "p80": p80},
        "bandwidth_fraction": round(case.num_bytes / (p50 / 1e6) / speed, 4),
    }


def times(cuda: Cuda, work: Callable[[], None]) -> list[float]:
    """Return the device's time of each of ``REPLAYS`` runs in ms, after one that is not timed."""
    work()
    events = [Event(cuda)]
    for _ in range(REPLAYS):
        work()
        events.append(Event(cuda))
    cuda.synchronize()
    return [after.ms_since(before) for before, after in pairwise(events)]


if __name__ == "__main__":
    main()
