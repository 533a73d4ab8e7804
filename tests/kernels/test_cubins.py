"""What a cubin says of itself, without a GPU: no spills, registers that fit, wide loads, and the
parameters that the manifest names."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from janus_edge.bench.programs.kernels import tune
from janus_edge.kernels.resources import dump, resources, turn_weights
from janus_edge.kernels.spec import Shape
from janus_edge.kernels.specs import specs
from janus_edge.kernels.tuning import TABLE, tuned
from tests.kernels.test_compile import ALL, compile_into

Made = Callable[[int], dict[str, Any]]

NAMES = [spec.name for spec in specs(Shape())]
REGISTERS = 65536  # of a multiprocessor, on every GPU that there are cubins for
MOST_SHARED = 99 * 1024  # bytes of a program, on the GPUs that allow least
SIZES = {"i32": 4, "fp32": 4}  # bytes of a parameter; addresses and i64 are 8
# What a kernel must load or store at once, and how often at least. nearest_code reads single
# numbers; flow_update measured faster with 8 bytes a thread than with 16 (docs/log.md).
_AHEAD = (r"(LDGSTS\.E\.[A-Z.]*|LDG\.E\.)128", 1)
WIDE = {
    "sample": (r"LDG\.E\.128", 2),
    "look_up": (r"STG\.E\.128", 2),
    "flow_update": (r"STG\.E\.64", 4),
    **dict.fromkeys(("attend", "attend_kept"), (r"LDG\.E\.128", 8)),
    **dict.fromkeys(
        ("qkv_many", "output_many", "gate_up_many", "down_many", "attend_many"), _AHEAD
    ),
}
PRODUCTS = {  # instructions of threads per weight at most
    **{"qkv": 7.5, "output": 7, "gate_up": 5.3, "down": 11.5},
    **dict.fromkeys(("head_hidden", "head_logits", "text_logits"), 7.5),
}
# words of weights come straight into shared memory, ahead of their use
WIDE |= dict.fromkeys(PRODUCTS, _AHEAD)
# Instructions at most: a tenth above what they are, so that a change that unrolls more is seen.
INSTRUCTIONS = {
    **{"sample": 6600, "look_up": 140, "take": 290, "nearest_code": 4200, "flow_update": 510},
    **{"norm": 220, "last_norm": 205, "attend": 900, "merge": 430},
    **{"attend_kept": 790, "write_slots": 140, "repack4": 260, "repack8": 150},
    **{"norm_many": 180, "last_norm_many": 160, "attend_many": 2700},
    **dict.fromkeys(("qkv_many", "output_many"), 930),
    **{"gate_up_many": 1400, "down_many": 1130},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """Return what gives a target's entries of the manifest, by kernel."""

    @functools.cache
    def entries(target: int) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("cubins")
        compile_into(folder, target)
        found = json.loads((folder / "kernels.json").read_text(encoding="utf-8"))
        return {entry["name"]: {**entry, "path": folder / entry["file"]} for entry in found}

    return entries


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ALL)
def test_a_cubin(made: Made, name: str, target: int) -> None:
    entry = made(target)[name]
    needs = resources(entry["path"])
    assert needs.registers * entry["threads"] <= REGISTERS
    assert entry["shared_bytes"] <= MOST_SHARED
    assert needs.spilled == 0 and "LDL" not in needs.code and "STL" not in needs.code
    if name in PRODUCTS:
        product = next(each for each in tune.products() if each.spec.name == name)
        weights = turn_weights(entry, needs, bits=product.bits, matrices=product.matrices)
        assert needs.in_loop * entry["threads"] / weights <= PRODUCTS[name]
    else:
        assert needs.instructions <= INSTRUCTIONS[name]
    code = needs.code
    if entry["constants"].get("OVERLAPS"):  # it waits for the kernel before, then reads
        assert code.index("ACQBULK") < code.index("LDG")
        assert "PREEXIT" in code and ("CCTL" in code or name not in PRODUCTS)
    else:
        assert "ACQBULK" not in code
    wide, count = WIDE.get(name, ("", 0))
    assert len(re.findall(wide, code)) >= count


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("target", ALL)
def test_products_are_divided_as_the_table_says(made: Made, name: str, target: int) -> None:
    table = json.loads(TABLE.read_text(encoding="utf-8"))[f"sm_{target}"]
    chosen, entry = table["kernels"][name], made(target)[name]
    assert entry["constants"]["BLOCK"] == chosen["block"] and table["by"]
    assert entry["threads"] == 32 * chosen["warps"]
    spec = next(each for each in specs(Shape()) if each.name == name)
    assert tuned(spec, target).options["num_stages"] == chosen["stages"]
    assert tuned(spec, 75) == spec  # no such GPU in the table


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ALL)
def test_its_parameters_are_those_of_the_manifest(made: Made, name: str, target: int) -> None:
    """In order, each where C would put it."""
    entry = made(target)[name]
    found = re.findall(
        r"Ordinal : 0x([0-9a-f]+)\s+Offset\s+: 0x([0-9a-f]+)\s+Size\s+: 0x([0-9a-f]+)",
        dump(entry["path"], "-elf"),
    )
    table = sorted(tuple(int(number, 16) for number in row) for row in found)
    expected, end = [], 0
    for ordinal, kind in enumerate(entry["arguments"]):
        size = SIZES.get(kind, 8)
        end = -(-end // size) * size
        expected.append((ordinal, end, size))
        end += size
    assert table == expected
