"""The machine that a measurement ran on, and how fast it reads memory."""

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

BUFFER_BYTES = 2**29  # far more than any cache holds
REPEATS = 5
_CPU = Path("/sys/devices/system/cpu")
_POWER = Path("/sys/class/power_supply")


def describe() -> dict[str, Any]:
    """Processor, memory, system, and what may disturb: power state and load."""
    return {
        "machine": f"{platform.machine()} {platform.system()}, {processor()}",
        "memory_gb": _memory_gb(),
        "python": platform.python_version(),
        "power": power_state(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def processor() -> str:
    """How many of which processor."""
    lines = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if sys.platform == "linux"
        else []
    )
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else f"{os.cpu_count()} x {platform.processor()}"


def power_state() -> str:
    """The processor's frequency governor, and whether the machine is on battery; what the system
    does not tell is "unknown"."""
    governors = set(_words(_CPU.glob("cpu[0-9]*/cpufreq/scaling_governor")))
    online = list(_words(_POWER.glob("*/online")))
    supply = "unknown" if not online else "mains" if "1" in online else "battery"
    return f"governor {', '.join(sorted(governors)) or 'unknown'}; supply {supply}"


def read_rates(num_threads: int = 0) -> list[float]:
    """Bytes a second that threads (0: one a processor) read from memory together, of each of some
    passes: the largest of many numbers, which waits for memory alone."""
    threads = num_threads or num_processors()
    parts = np.array_split(np.ones(BUFFER_BYTES // 4, np.float32), threads)
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            found.append(BUFFER_BYTES / (time.perf_counter() - began))
    return found


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once, with what it touched of mapped files."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says here includes the process that started this one
        (line,) = [
            line
            for line in status.read_text(encoding="utf-8").splitlines()
            if line.startswith("VmHWM:")
        ]
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _words(paths: Iterator[Path]) -> Iterator[str]:
    for path in paths:
        try:
            yield path.read_text(encoding="utf-8").strip()
        except OSError:
            continue
