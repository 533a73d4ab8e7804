"""The same mutated image files in Python and in C: both read them or both refuse, and PNG comes
out the same. Nothing crashes."""

from __future__ import annotations

import ctypes
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from janus_edge.runtime.errors import ImageError
from janus_edge.runtime.image import load_image
from tests import image_files
from tests.native import capi
from tests.native.capi import Api, ApiError

SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 100))]
COUNT = 150


def in_python(path: Path) -> np.ndarray | None:
    """None: refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(load_image(path))
    except ImageError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return None


def in_c(api: Api, path: Path) -> np.ndarray | None:
    image = capi.Image()
    try:
        api.check(api.je.je_image_load(str(path).encode(), ctypes.byref(image)))
    except ApiError as error:
        assert error.status == capi.E_IMAGE and str(error).startswith(str(path))
        return None
    found = capi.array(image)
    api.je.je_image_free(ctypes.byref(image))
    return found


def differs(api: Api, path: Path, is_exact: bool) -> str:
    """How they differ; "": they do not."""
    one, other = in_python(path), in_c(api, path)
    if (one is None) != (other is None):
        return f"refused by {'Python' if one is None else 'C'} alone"
    if one is None or other is None:
        return ""
    if one.shape != other.shape:
        return f"{one.shape} and {other.shape}"
    return "pixels" if is_exact and not np.array_equal(one, other) else ""


def cases(seed: int) -> Iterator[tuple[bytes, bool]]:
    """A file, and whether it must come out the same."""
    rng = random.Random(seed)
    corpus = [(file, True) for file in image_files.pngs(rng)]
    corpus += [(file, False) for file in image_files.jpegs()]
    yield from corpus
    for _ in range(COUNT):
        file, is_exact = rng.choice(corpus)
        yield image_files.mutated(file, rng), is_exact


@pytest.mark.parametrize("seed", SEEDS)
def test_both_read_it_or_both_refuse(api: Api, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a"
    for index, (file, is_exact) in enumerate(cases(seed)):
        path.write_bytes(file)
        said = differs(api, path, is_exact)
        assert not said, f"seed {seed}, file {index}: {said}"
