"""Builds for 64-bit Arm, whose programs run under qemu: what they need, and what qemu is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import onnxruntime
import pytest

TOOLCHAIN = Path(__file__).resolve().parents[2] / "native/cmake/aarch64.cmake"
LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")
TOOLS = ("aarch64-linux-gnu-g++", "qemu-aarch64-static")
# As a Neoverse N1 says it. ONNX Runtime's start crashes on the host's text, which qemu 7.2 shows.
PROCESSOR = """processor\t: {}
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""


def options(folder: Path) -> list[str]:
    """Return CMake's options, and write what qemu shows below `folder`; skip without the tools."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} are missing; CONTRIBUTING.md names the packages")
    (folder / "root/proc").mkdir(parents=True, exist_ok=True)
    if not (folder / "root/lib").is_symlink():  # another worker may have been here
        (folder / "root/lib").symlink_to(LIBRARIES)
    text = "".join(PROCESSOR.format(index) for index in range(os.cpu_count() or 1))
    (folder / "root/proc/cpuinfo").write_text(text, encoding="ascii")
    return [f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}"]


def emulator(folder: Path, cpu: str) -> list[str | Path]:
    """Return the words that run a program of the build in `folder`."""
    return ["qemu-aarch64-static", "-cpu", cpu, "-L", folder / "root"]


@cache
def onnxruntime_library(folder: Path) -> Path:
    """Download the wheel for Arm of the version that is installed; return its library."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    platforms = ("--platform=manylinux_2_28_aarch64", "--platform=manylinux_2_27_aarch64")
    command += [*platforms, "--only-binary=:all:", f"onnxruntime=={onnxruntime.__version__}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        pytest.skip(f"no ONNX Runtime for Arm: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if "capi/libonnxruntime.so." in n)
        return Path(archive.extract(name, folder))
