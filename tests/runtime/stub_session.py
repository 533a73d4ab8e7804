"""Draw with a bundle's kernels through the real cuda-bindings, on the stub of libcuda.

    LD_LIBRARY_PATH=STUB python -m tests.runtime.stub_session BUNDLE CODES.npy

The stub keeps memory, streams and captured graphs; it calls back here for the kernels' arithmetic
(fake_cuda.py). ``test_gpu_stub.py`` runs this.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
from pathlib import Path
from typing import Any, cast

import numpy as np

from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.session import Session
from tests.runtime import fake_cuda
from tests.runtime.fake_machine import PROMPTS, drawn, results

_TYPES: dict[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}
_RUN = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint64))


class Stub:
    """The stub, as the kernels' arithmetic sees a GPU."""

    is_unsound = False

    def __init__(self, bundle: Bundle) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.stub_holds.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        sizes = bundle.manifest.sizes
        self.width = sizes.hidden_size
        self.codebook_size = getattr(sizes, "codebook_size", 0)
        self.constants = {each.name: each.constants for each in bundle.manifest.kernels}
        self.arguments = {each.symbol: each.arguments for each in bundle.manifest.kernels}
        self.launched: set[str] = set()
        self.failed: list[str] = []
        self._run = _RUN(self.run)  # kept as long as the stub may call it
        for symbol, types in self.arguments.items():
            bytes_of = "".join(str(ctypes.sizeof(_type(each))) for each in types)
            self.library.stub_compute(symbol.encode(), bytes_of.encode(), self._run)

    @staticmethod
    def is_here() -> bool:
        """Return whether libcuda is the stub."""
        return hasattr(ctypes.CDLL("libcuda.so.1"), "stub_holds")

    def run(self, symbol: bytes, programs: int, values: Any) -> None:
        """Do what a launch asks for."""
        name = symbol.decode()
        given = [_value(kind, values[i]) for i, kind in enumerate(self.arguments[name])]
        try:
            self.launched.add(name)
            fake_cuda.KERNELS[name](cast(Any, self), programs, *given)
        except Exception:  # what is raised here would go no further
            self.failed.append(traceback.format_exc())

    def at(self, address: int, dtype: Any, count: int) -> np.ndarray:
        """Numbers at an address, which must lie in memory that was given."""
        size = np.dtype(dtype).itemsize * count
        address = int(address)  # NumPy counts in its own type
        assert self.library.stub_holds(address, size), f"{size} bytes at {address}: not allocated"
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype)


def _type(kind: str) -> Any:
    return _TYPES.get(kind, ctypes.c_uint64)  # arrays are addresses


def _value(kind: str, bits: int) -> Any:
    """Return an argument of a type of the manifest."""
    return _type(kind).from_buffer_copy(bits.to_bytes(8, "little")).value


def main(folder: Path, target: Path) -> None:
    """Draw two batches, the second with the state of the first, and save their codes."""
    bundle = open_bundle(folder)
    stub = Stub(bundle)
    session = Session(bundle, device="cuda")
    found = [results(drawn(session, PROMPTS)) for _ in range(2)]
    assert not stub.failed, stub.failed[0]
    print(" ".join(sorted(stub.launched)))
    np.save(target, np.stack(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
