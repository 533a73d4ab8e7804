"""The n-th open, read, write, allocation or thread of the library fails: a status with a line, no
crash, no litter, and of what is written the old file or the new one."""

from __future__ import annotations

import ctypes as c
import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from janus_edge.runtime.backends.cpu_library import library
from janus_edge.runtime.bundle import SHIPPED
from tests.native import capi
from tests.native.conftest import Build, checked

SHIM = Path(__file__).parent / "faults.cpp"
KINDS = {
    "open": errno.EMFILE,
    "stat": errno.EIO,
    "read": errno.EIO,
    "write": errno.ENOSPC,
    "rename": errno.EIO,
    "mmap": errno.ENOMEM,
    "thread": errno.EAGAIN,
    "memory": errno.ENOMEM,
}
MANY = pytest.param(400, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fails calls, compiled."""
    made = tmp_path_factory.mktemp("faults") / "faults.so"
    checked("g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-o", made, SHIM, "-ldl")
    return made


class Drawing:
    """The example draws, saves and asks, in a folder where an older image lies."""

    def __init__(self, build: Build, shim: Path, bundle: Path, folder: Path) -> None:
        self.program, self.shim, self.bundle = build.program("draw_and_ask"), shim, bundle
        self.folder, self.image = folder / "out", folder / "out" / "out.png"
        self.folder.mkdir()
        self.home, self.count = folder / "home", folder / "count"
        Image.new("RGB", (5, 5)).save(self.image)
        self.old = self.image.read_bytes()

    def __call__(self, kind: str, at: int, every: bool) -> subprocess.CompletedProcess[str]:
        self.image.write_bytes(self.old)
        words = [self.program, self.bundle, "a star", self.image, "what is it?"]
        env = os.environ | {
            "LD_PRELOAD": str(self.shim),
            "JANUS_EDGE_HOME": str(self.home),
            "JE_FAULT_KIND": kind,
            "JE_FAULT_AT": str(at),
            "JE_FAULT_ERRNO": str(KINDS[kind]),
            "JE_FAULT_COUNT": str(self.count),
            **({"JE_FAULT_ALL": "1"} if every else {}),
        }
        return subprocess.run(
            [*map(str, words), str(capi.onnxruntime_library())],
            env=env, capture_output=True, encoding="utf-8", errors="replace", timeout=300,
        )  # fmt: skip

    def check(self, kind: str, at: int, every: bool) -> None:
        done = self(kind, at, every)
        where = f"{kind} {at} {every}: {done.returncode} {done.stderr[-300:]}"
        assert done.returncode in (0, 1), where
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == done.returncode and all(len(line) > 15 for line in lines), where
        assert [path.name for path in self.folder.iterdir()] == ["out.png"], where
        assert not list(self.home.rglob("*.part")), where
        if self.image.read_bytes() != self.old:
            with Image.open(self.image) as image:
                image.load()


@pytest.mark.parametrize("most", [6, MANY])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tiny-janus", "int4"])
def test_a_call_that_fails_is_a_status(
    release: Build, shim: Path, tmp_path: Path, name: str, kind: str, most: int, int4_dir: Path
) -> None:
    bundle = int4_dir if name == "int4" else SHIPPED / name
    drawing = Drawing(release, shim, bundle, tmp_path)
    done = drawing(kind, 0, False)
    assert done.returncode == 0, done.stderr
    calls = int(drawing.count.read_text(encoding="utf-8"))
    assert calls > 0 or kind == "mmap"  # whose calls are those of our own decoder
    chosen = range(1, calls + 1)
    if calls > most:
        chosen = sorted({1, *random.Random(kind).sample(chosen, most)})
    for at in chosen:
        # without any memory at all the JSON library ends the process (docs/c-api.md)
        drawing.check(kind, at, every=at % 2 == 0 and kind != "memory")


IN_PYTHON = """
import ctypes, sys
from PIL import Image
from janus_edge.runtime.backends.cpu_library import library
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

shim, bundle = ctypes.CDLL(None), open_bundle(sys.argv[1])
library()

def use():
    session = Session(bundle, num_threads=3)
    list(session.generate_image(ImageRequest(prompt="a star", seed=1)))
    image = Image.new("RGB", (8, 8))
    list(session.ask(AskRequest(question="what is it?", images=image, max_tokens=2)))

for kind, error in ((b"memory", MemoryError), (b"thread", OptionError)):
    shim.je_fault_arm(b"_cpu_kernels", kind, 0, 12, 0)
    use()
    calls, due, failed = shim.je_fault_calls(), 0, 0
    assert calls > 0, kind
    for at in range(1, min(calls, 40) + 1):
        shim.je_fault_arm(b"_cpu_kernels", kind, at, 12, 0)
        try:
            use()
        except (MemoryError, OptionError):
            failed += 1
        due += shim.je_fault_calls() >= at
    shim.je_fault_arm(b"_cpu_kernels", b"none", 0, 0, 0)
    print(kind.decode(), due, failed)
    use()
"""


@pytest.mark.skipif(library() is None, reason="this processor has not the instructions")
def test_our_own_decoder_in_python(shim: Path, int4_dir: Path) -> None:
    """Each failure is an exception, and the next session is as good as new.

    How many allocations there are differs from time to time: `auto` tries passes by what they cost.
    """
    assert c.sizeof(c.c_long) == 8
    found = checked(sys.executable, "-c", IN_PYTHON, int4_dir, LD_PRELOAD=str(shim))
    for line in found.splitlines():
        kind, due, failed = line.split()
        assert int(failed) == int(due) >= {"memory": 16, "thread": 1}[kind], kind
