"""Build ``libcuda.so.1`` of stub_cuda.cpp, and run programs that find it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def with_stub(folder: Path) -> dict[str, str]:
    """Build the stub in a folder; return an environment where programs find it."""
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    library = str(folder / "libcuda.so.1")
    build = ["g++", *flags, *warnings, str(HERE / "stub_cuda.cpp"), "-o", library]
    subprocess.run(build, check=True)
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = [str(folder), *filter(None, [kept.get("LD_LIBRARY_PATH")])]
    return kept | {"LD_LIBRARY_PATH": os.pathsep.join(paths)}


def run_python(environment: dict[str, str], *words: str) -> str:
    """Run a module of Python, which must not fail; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env=environment,
        cwd=HERE.parents[1],
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout
