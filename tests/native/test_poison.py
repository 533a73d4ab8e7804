"""The C++ core reads no slot of a KV cache that was not written: such slots hold no number here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from janus_edge.runtime.bundle import SHIPPED
from tests.native.conftest import Build, checked

POISON = Path(__file__).parent / "poison.cpp"
PROGRAM = """
import ctypes, hashlib, sys
from pathlib import Path
from tests.native.capi import Api

CASES = (
    {}, {"parallel": 5}, {"window": 3}, {"window": 8}, {"window": 2, "guidance_end": 0.5},
    {"guidance_end": 0.4, "parallel": 3}, {"num_images": 3, "window": 4},
    {"num_images": 2, "more_prompts": [b"a circle above two green crosses on white"]},
)
api = Api(Path(sys.argv[1]))
for threads in (1, 2):
    with api.session(sys.argv[2], num_threads=threads) as session:
        for settings in CASES:
            for each in api.draw(session, prompt=b"two stars", seed=4, **settings):
                print(hashlib.sha256(each.pixels.tobytes() + each.codes.tobytes()).hexdigest())
        print(api.ask(session, prompt=b"what colour is it?", max_tokens=8))
        print(api.ask(session, prompt=b"how many?", max_tokens=8, parallel=4))
print(getattr(ctypes.CDLL(None), "je_poisoned", int)())
"""


@pytest.fixture(scope="module")
def poison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that poisons memory."""
    made = tmp_path_factory.mktemp("poison") / "poison.so"
    checked("g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-o", made, POISON, "-ldl")
    return made


@pytest.mark.parametrize("name", ["tiny-janus", "int4"])
def test_slots_that_were_not_written_are_not_read(
    release: Build, poison: Path, int4_dir: Path, name: str
) -> None:
    bundle = int4_dir if name == "int4" else SHIPPED / name
    words = sys.executable, "-c", PROGRAM, release.library, bundle
    *clean, none = checked(*words).splitlines()
    *found, poisoned = checked(*words, LD_PRELOAD=str(poison)).splitlines()
    assert found == clean and len(clean) == 30
    assert int(none) == 0 and int(poisoned) > 100
