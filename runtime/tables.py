"""Look-up tables: .npy files of float32 or float16 rows, compared with what the manifest says.

Rows are read when they are used, not mapped: if the file has become shorter, that is an error, not
the end of the process. Small tables are read whole; only those may be stored by column.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.limits import MOST_BYTES, WHOLE_TABLE
from janus_edge.runtime.reading import open_regular

_MAGIC = b"\x93NUMPY\x01\x00"  # version 1.0; two bytes of the header's length follow (NEP 1)
_BEFORE_HEADER = len(_MAGIC) + 2
_AGAIN = "export the bundle again"


class Rows(Protocol):
    """Rows of numbers (V, D): an array, or a table that is read when it is used."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """Return rows by their numbers."""


class Table:
    """A table (V, D) in a file, for several threads. Takes row numbers in arrays of any shape."""

    def __init__(self, path: Path, shape: tuple[int, int], weights: str) -> None:
        """Open a table.

        Args:
            path: The .npy file.
            shape: V and D.
            weights: "float16" or "float32", as stored.

        Raises:
            BundleError: The file is not exactly such an array, or is read whole and holds a number
                that is not finite.
        """
        self._path, self.shape, self._lock = path, shape, threading.Lock()
        self.dtype = np.dtype("<f2" if weights == "float16" else "<f4")
        try:
            descriptor = open_regular(path, MOST_BYTES["component"])
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from None
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        weakref.finalize(self, self._file.close)
        by_column, self._start = self._header()
        num_bytes = shape[0] * shape[1] * self.dtype.itemsize
        if os.fstat(descriptor).st_size != self._start + num_bytes:
            raise BundleError(f"{path}: not {self._start + num_bytes} bytes long; {_AGAIN}")
        self._whole: np.ndarray | None = None
        if num_bytes <= WHOLE_TABLE:
            read = self._read(0, shape[::-1] if by_column else shape)
            self._whole = np.ascontiguousarray(read.T) if by_column else read
        elif by_column:
            raise BundleError(f"{path}: a large table stored by column; {_AGAIN}")

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows (..., D) by their numbers (...).

        Raises:
            BundleError: The file has become shorter, or holds a number that is not finite.
        """
        if self._whole is not None:
            return self._whole[rows]
        numbers = np.asarray(rows)
        found = np.empty((numbers.size, self.shape[1]), self.dtype)
        for to, row in zip(found, numbers.flat, strict=True):
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")
            to[:] = self._read(int(row), self.shape[1:])
        return found.reshape(*numbers.shape, self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the whole table."""
        found = self._read(0, self.shape) if self._whole is None else self._whole
        return found if dtype is None else found.astype(dtype)

    def _header(self) -> tuple[bool, int]:
        """Return whether the numbers are stored by column, and where they begin in the file."""
        start = self._file.read(_BEFORE_HEADER)
        raw = self._file.read(int.from_bytes(start[len(_MAGIC) :], "little"))
        for by_column in (False, True):
            # To the letter as numpy writes it; the C++ code compares the same.
            keys = f"'descr': '{self.dtype.str}', 'fortran_order': {by_column}"
            said = f"{{{keys}, 'shape': {self.shape}, }}".encode()
            is_said = start.startswith(_MAGIC) and raw.startswith(said)
            if is_said and raw[len(said) :].strip(b" ") == b"\n":
                return by_column, _BEFORE_HEADER + len(raw)
        raise BundleError(f"{self._path}: not an array {self.dtype.name} {self.shape}; {_AGAIN}")

    def _read(self, row: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return numbers of a shape, from the start of a row on."""
        found = np.empty(shape, self.dtype)
        view = found.data.cast("B")
        with self._lock:
            self._file.seek(self._start + row * self.shape[1] * self.dtype.itemsize)
            while len(view):
                count = self._file.readinto(view)
                if not count:
                    raise BundleError(f"{self._path}: has become shorter; copy the bundle again")
                view = view[count:]
        if not np.isfinite(found).all():
            raise BundleError(f"{self._path}: holds what is no finite number; {_AGAIN}")
        return found
