"""The real cuda-bindings and our cubins' launches without a GPU: on a ``libcuda.so.1`` built here.

It runs ``test_gpu_driver.py``, so what is tested on a GPU is itself tested everywhere. It shows
that cubins compile and how they are launched; their code runs on a GPU only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="needs g++")
def test_the_driver_tests_pass_on_a_stub(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.1"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    build = ["g++", *flags, *warnings, str(HERE / "stub_cuda.cpp"), "-o", str(library)]
    subprocess.run(build, check=True)
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = [str(tmp_path), *filter(None, [kept.get("LD_LIBRARY_PATH")])]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(HERE / "test_gpu_driver.py")],
        env=kept | {"LD_LIBRARY_PATH": os.pathsep.join(paths)},
        cwd=HERE.parents[1],
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"^\d+ passed in", done.stdout, re.M), done.stdout[-500:]  # and none skipped
