"""The CPU kernels give the same bits with every instruction set, and for any number of rows."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from janus_edge.export.graph.component import Feeds
from janus_edge.runtime.backends import cpu_library
from janus_edge.runtime.tiles import LAYOUTS, to_tiles
from tests.runtime.cpu_models import LENGTH, Made, needs_library

pytestmark = needs_library
SETS = ("avx512_vnni", "avx_vnni", "avx512vl_vnni", "avx2", "neon_i8mm", "neon_dotprod", "portable")


@pytest.fixture
def choose() -> Iterator[ctypes.CDLL]:
    found = cpu_library.library()
    assert found is not None
    yield found
    found.je_choose_instructions(None)


def _feeds(made: Made, rows: int, past: int, time: int) -> Feeds:
    config = made.checkpoint.model.config.language
    rng = np.random.default_rng(rows)
    feeds: Feeds = {
        "embeds": made.embeds(rows, time),
        "positions": np.tile(np.arange(past, past + time), (rows, 1)),
        "lengths": np.full(rows, past + time),
    }
    shape = (rows, config.num_key_value_heads, LENGTH, config.head_dim)
    for index in range(config.num_hidden_layers):
        for part in "kv":
            cache = np.rint(rng.standard_normal(shape, np.float32) * 20).astype(np.int8)
            cache[:, :, past:] = 0
            feeds[f"past_{part}_{index}"] = cache
    return feeds


@pytest.mark.parametrize(
    ("rows", "past", "time"),
    [(1, 40, 1), (2, 131, 1), (5, 3, 1), (13, 20, 1), (1, 9, 3), (1, 0, 77), (2, 30, 50)],
)
def test_every_instruction_set_gives_the_same_bits(
    made: Made, choose: ctypes.CDLL, rows: int, past: int, time: int
) -> None:
    feeds, found = _feeds(made, rows, past, time), {}
    for name in SETS:
        if choose.je_choose_instructions(name.encode()) == 1:
            found[name] = made.open().run(feeds)
    assert len(found) > 1
    for name, outputs in found.items():
        for output, expected in zip(outputs, found["portable"], strict=True):
            assert np.array_equal(output, expected), name


def test_a_row_does_not_depend_on_the_others(made: Made) -> None:
    feeds = _feeds(made, 13, 20, 1)
    together = made.open().run(feeds)
    for count in (1, 2, 3, 5, 8, 12):
        alone = made.open().run(
            {name: np.ascontiguousarray(a[:count]) for name, a in feeds.items()}
        )
        for some, all_rows in zip(alone, together, strict=True):
            assert np.array_equal(some, all_rows[:count]), count


@pytest.mark.parametrize("past", [0, 7, 60])
def test_positions_together_are_those_one_by_one(made: Made, past: int) -> None:
    """Whether few (from the cache) or many (the cache widened first) are computed at once."""
    feeds = _feeds(made, 1, past, 40)
    hidden, *caches = made.open().run(feeds)
    engine = made.open()
    known = {name: array for name, array in feeds.items() if name.startswith("past_")}
    start = 0
    for count in (1, 2, 3, 4, 5, 16, 9):
        step: Feeds = {
            "embeds": np.ascontiguousarray(feeds["embeds"][:, start : start + count]),
            "positions": feeds["positions"][:, start : start + count].copy(),
            "lengths": np.array([past + start + count]),
            **known,
        }
        found, *after = engine.run(step)
        assert np.array_equal(found, hidden[:, start : start + count]), count
        known = dict(zip(known, after, strict=True))
        start += count
    assert start == 40
    assert all(map(np.array_equal, known.values(), caches))


@pytest.mark.parametrize("past", [0, 30])
def test_the_last_positions_alone_are_those_of_all(made: Made, past: int) -> None:
    """Compare rows of different lengths, one with a single position."""
    feeds = _feeds(made, 3, past, 33)
    feeds["lengths"] -= np.array([0, 5, 32])
    if past:  # each row's new positions are the last 33 up to its length
        feeds["positions"] -= np.array([[0], [5], [32]])
    feeds["positions"] = np.maximum(feeds["positions"], 0)
    hidden, *caches = made.open().run(feeds)
    last = np.full_like(hidden, -7.0)
    after = [feeds[name].copy() for name in feeds if name.startswith("past_")]
    names = [name for name in feeds if name.startswith("past_")]
    given = {**feeds, **dict(zip(names, after, strict=True))}
    present = {name.replace("past", "present"): given[name] for name in names}
    made.open().bind(given, {"hidden": last, **present}, last_only=True)()
    assert all(map(np.array_equal, after, caches))
    rows, ends = np.arange(3), np.minimum(feeds["lengths"], 33) - 1
    assert np.array_equal(last[rows, ends], hidden[rows, ends])
    last[rows, ends] = -7.0
    assert (last == -7.0).all()


def _head(pool: cpu_library.Pool, hidden: np.ndarray, outputs: int, dtype: str) -> np.ndarray:
    """Return the logits of a head with every stored byte, 0 and 255 among them."""
    inputs = hidden.shape[1]
    layout, rng = LAYOUTS[dtype], np.random.default_rng(5)
    stored = rng.integers(0, 256, (outputs, -(-inputs // layout.block), layout.block), np.uint8)
    stored[0], stored[1] = 0, 255
    tiles = to_tiles(stored, rng.random(stored.shape[:2], np.float32), layout)
    matrix = cpu_library.Matrix(tiles.ctypes.data, None, outputs, inputs, 8, layout.block)
    logits = np.empty((len(hidden), outputs), np.float32)
    addresses = ctypes.byref(matrix), 1, len(hidden), hidden.ctypes.data, logits.ctypes.data
    assert pool.library.je_head_run(pool.address, *addresses) == 0
    return logits


@pytest.mark.parametrize("dtype", ["int8_tiles", "int8_tiles_128"])
@pytest.mark.parametrize("rows", [1, 2, 5, 13, 60])
def test_heads_give_the_same_bits(choose: ctypes.CDLL, rows: int, dtype: str) -> None:
    hidden = np.random.default_rng(rows).standard_normal((rows, 200), np.float32)
    hidden[0] = -1.0  # every input the most negative one
    pool, found = cpu_library.Pool(2), {}
    for name in SETS:
        if choose.je_choose_instructions(name.encode()) == 1:
            found[name] = _head(pool, hidden, 75, dtype)
            assert np.array_equal(found[name][:1], _head(pool, hidden[:1], 75, dtype)), name
    assert len(found) > 1
    for name, logits in found.items():
        assert np.array_equal(logits, found["portable"]), name


_SAYS = (
    "from janus_edge.runtime.backends.cpu_library import instructions\n"
    "from janus_edge.runtime.errors import OptionError\n"
    "try: print(instructions())\n"
    "except OptionError as error: print(error)"
)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("portable", "portable"),
        ("none", "None"),
        ("avx9", "JANUS_EDGE_CPU_KERNELS is avx9: this processor or version has none of this name"),
    ],
)
def test_the_environment_names_an_instruction_set(named: str, says: str) -> None:
    environment = os.environ | {"JANUS_EDGE_CPU_KERNELS": named}
    command = [sys.executable, "-c", _SAYS]
    found = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", check=True
    )
    assert found.stdout.strip() == says


def test_a_name_that_is_none_is_refused(choose: ctypes.CDLL) -> None:
    before = choose.je_instructions()
    assert choose.je_choose_instructions(b"avx9") == -1
    assert choose.je_instructions() == before
