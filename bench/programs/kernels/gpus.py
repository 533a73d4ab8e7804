"""GPUs as their makers' data sheets describe them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataSheet:
    """Figures of a GPU that the estimate takes, from its maker's data sheet.

    Attributes:
        name: The GPU.
        processors: Multiprocessors.
        clock: In GHz, under load.
        bandwidth: Of its memory, in GB/s.
        shared: Memory of a multiprocessor for its programs, in KB.
        threads: Of a multiprocessor at most.
    """

    name: str
    processors: int
    clock: float
    bandwidth: float
    shared: int
    threads: int


GPUS = {
    80: DataSheet(
        name="A100", processors=108, clock=1.41, bandwidth=1555, shared=164, threads=2048
    ),
    86: DataSheet(
        name="RTX 3090", processors=82, clock=1.7, bandwidth=936, shared=100, threads=1536
    ),
    87: DataSheet(
        name="AGX Orin", processors=16, clock=1.3, bandwidth=204, shared=164, threads=1536
    ),
    89: DataSheet(
        name="RTX 4090", processors=128, clock=2.52, bandwidth=1008, shared=100, threads=1536
    ),
    90: DataSheet(
        name="H100", processors=132, clock=1.75, bandwidth=3350, shared=228, threads=2048
    ),
    100: DataSheet(
        name="B200", processors=148, clock=1.85, bandwidth=8000, shared=228, threads=2048
    ),
    120: DataSheet(
        name="RTX 5090", processors=170, clock=2.4, bandwidth=1792, shared=100, threads=1536
    ),
}
