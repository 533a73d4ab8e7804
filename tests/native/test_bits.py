"""The CPU kernels give the same bits on every processor: bits.c runs small components with all
instruction sets of this machine, and with those of Arm under qemu."""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.native.conftest import Build, checked

SETS = ("avx512_vnni", "avx_vnni", "avx512vl_vnni", "avx2", "neon_i8mm", "neon_dotprod", "portable")
X86 = {  # and what /proc/cpuinfo calls what it needs
    "avx512_vnni": "avx512_vnni",
    "avx512vl_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx2": "avx2",
}
# Plain C is slow under qemu: some of the cases, of each size of decoder and head.
RUNS = {"": [(1, SETS)], "aarch64": [(1, SETS[:-1]), (5, SETS[-1:])]}
CASES = 4 * 13 + 2 * 7 + 2
Hashes = dict[str, list[str]]  # of each case, by row


def expected_sets(kind: str) -> set[str]:
    """Return what must have run, besides plain C."""
    if kind.startswith("aarch64"):
        return {"neon_i8mm", "neon_dotprod"}
    if platform.machine() != "x86_64":
        return set()
    (flags, *_) = re.findall(
        r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M
    )
    return {name for name, flag in X86.items() if flag in flags.split()}


def run(made: Build, runs: Iterable[tuple[int, Iterable[str]]]) -> dict[str, Hashes]:
    """Return the hashes of each instruction set that is there."""
    found: dict[str, Hashes] = defaultdict(dict)
    for every, names in runs:
        _, *lines = checked(*made.command("bits"), str(every), *names).splitlines()
        for line in lines:
            name, case, *rows = line.split(": ")
            if case != "not here":
                found[name][case] = rows[0].split()
    return found


def same(found: dict[str, Hashes], expected: Hashes) -> None:
    """Every case is the expected one, in each instruction set."""
    for name, hashes in found.items():
        assert hashes == {case: expected[case] for case in hashes}, name


@pytest.fixture(scope="module")
def here(configured: Callable[[str], Build]) -> dict[str, Hashes]:
    """Return the hashes of this machine's instruction sets."""
    return run(configured("").make("bits"), RUNS[""])


def test_every_instruction_set_gives_the_same_bits(here: dict[str, Hashes]) -> None:
    assert set(here) == expected_sets("") | {"portable"}
    assert {len(hashes) for hashes in here.values()} == {CASES}
    same(here, here["portable"])


def test_a_row_does_not_depend_on_the_number_of_rows(here: dict[str, Hashes]) -> None:
    """Cases that differ in nothing else begin with the same hashes; no two rows are the same."""
    longest: dict[str, list[str]] = {}
    for case, rows in here["portable"].items():
        assert len(set(rows)) == len(rows)
        others = longest.setdefault(re.sub(r"\d+ rows", "", case), rows)
        assert all(a == b for a, b in zip(rows, others, strict=False)), case
    assert len(longest) < CASES / 1.5


@pytest.mark.arm
def test_arm_gives_the_bits_of_this_machine(
    here: dict[str, Hashes], configured: Callable[[str], Build]
) -> None:
    found = run(configured("aarch64").make("bits"), RUNS["aarch64"])
    assert set(found) == expected_sets("aarch64") | {"portable"}
    assert [len(found[name]) for name in ("neon_i8mm", "neon_dotprod")] == [CASES] * 2
    assert len(found["portable"]) >= CASES // 5
    same(found, here["portable"])


@pytest.mark.arm
@pytest.mark.parametrize(
    ("cpu", "chosen"),
    [("cortex-a53", "none"), ("cortex-a76", "neon_dotprod"), ("max", "neon_i8mm")],
)
def test_arm_processors_choose(configured: Callable[[str], Build], cpu: str, chosen: str) -> None:
    made = configured("aarch64").make("bits")
    assert checked(*made.command("bits", cpu), "1") == f"chosen {chosen}\n"
    lines = checked(*made.command("bits", cpu), "1", "neon_i8mm").splitlines()
    assert (lines[1:] == ["neon_i8mm: not here"]) == (cpu != "max")


@pytest.mark.arm
def test_no_undefined_behaviour_on_arm(
    here: dict[str, Hashes], configured: Callable[[str], Build]
) -> None:
    """Every seventh case under UndefinedBehaviorSanitizer, which ends at the first finding."""
    found = run(configured("aarch64:undefined").make("bits"), [(7, SETS)])
    assert set(found) == expected_sets("aarch64") | {"portable"}
    same(found, here["portable"])
