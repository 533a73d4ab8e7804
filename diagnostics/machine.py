"""The machine that a measurement ran on, and its memory bandwidth."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.runtime.resources import num_processors

BUFFER_BYTES = 2**29  # far more than caches hold
REPEATS = 5
_CPU = Path("/sys/devices/system/cpu")
_POWER = Path("/sys/class/power_supply")


def describe() -> dict[str, Any]:
    """Return processor, memory and system, and what may disturb: power state and load."""
    return {
        "machine": f"{platform.machine()} {platform.system()}, {processor()}",
        "memory_gb": _memory_gb(),
        "python": platform.python_version(),
        "power": power_state(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def processor() -> str:
    """Return how many of which processor there are."""
    lines = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if sys.platform == "linux"
        else []
    )
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"{len(names)} x {names[0]}"
        if names
        else f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    )


def power_state() -> str:
    """Return the processor's frequency governors and the power supply, "unknown" if not known."""
    governors = set(_words(_CPU.glob("cpu[0-9]*/cpufreq/scaling_governor")))
    online = list(_words(_POWER.glob("*/online")))
    supply = "unknown" if not online else "mains" if "1" in online else "battery"
    return f"governor {', '.join(sorted(governors)) or 'unknown'}; supply {supply}"


def read_rates(num_threads: int = 0) -> list[float]:
    """Return the memory bandwidth of several passes, in bytes per second.

    Threads read together. Each takes the largest of many numbers, which waits for memory alone.

    Args:
        num_threads: Number of threads; 0 for one per processor.
    """
    threads = num_threads or num_processors()
    parts = np.array_split(np.ones(BUFFER_BYTES // 4, np.float32), threads)
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            found.append(BUFFER_BYTES / (time.perf_counter() - began))
    return found


def peak_gops(num_threads: int = 0) -> float | None:
    """Return how many operations a second the CPU kernels' dot products reach, in 1e9.

    The median of some runs without memory; None where the kernels do not run.

    Args:
        num_threads: Number of threads; 0 for one per processor.
    """
    from janus_edge.runtime.backends import cpu_library

    if cpu_library.library() is None:
        return None
    pool = cpu_library.Pool(num_threads or num_processors())
    return float(np.median([pool.peak_gops() for _ in range(REPEATS)]))


def peak_memory_bytes() -> int:
    """Return the peak memory of this process in bytes, touched parts of mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, getrusage includes the process that started this one
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):  # some sandboxes leave it out
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _memory_gb() -> float | None:
    """Return the machine's memory in GB; None if not known."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _words(paths: Iterator[Path]) -> Iterator[str]:
    """Yield the text of each file that can be read."""
    for path in paths:
        try:
            yield path.read_text(encoding="utf-8").strip()
        except OSError:
            continue
