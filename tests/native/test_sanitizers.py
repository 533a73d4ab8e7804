"""Under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer: the
conformance cases, jobs at once, cancelling, opening and closing; the fuzzers' corpus. Any report
fails."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from janus_edge.export.tokenizer.compile import compile_tokenizer
from janus_edge.runtime.bundle import SHIPPED
from tests.make_vectors import FOLDER, TOKENIZERS
from tests.native import capi, test_bits
from tests.native.conftest import ARM, SUPPRESSIONS, Build, checked
from tests.native.test_conformance import PROMPTS, QUESTIONS

CASES = 5  # of the conformance tests' prompts, and of their questions: sanitizers are slow
FEW = 2  # where ONNX Runtime computes, slow with them beside it
CORPUS = Path(__file__).parent / "corpus"
# ThreadSanitizer takes minutes more; tests/native/test_pool.py has the threads alone.
SANITIZERS = ("address,undefined", pytest.param("thread", marks=pytest.mark.slow))
REPORTS = {
    "ASAN_OPTIONS": "detect_leaks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": f"suppressions={SUPPRESSIONS}",
}


def stress(made: Build, bundle: Path, *words: str | Path) -> list[str]:
    program, library = made.program("stress"), capi.onnxruntime_library()
    return checked(program, library, bundle, *words, **REPORTS).splitlines()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with some of the conformance tests' prompts and questions, a line each; its files are
    named by how many of each they have."""
    folder = tmp_path_factory.mktemp("cases")
    lines = [f"draw\t{1000 * index}\t{prompt}" for index, prompt in enumerate(PROMPTS[:CASES])]
    for index, (pixels, question) in enumerate(QUESTIONS[:CASES]):
        Image.fromarray(pixels).save(folder / f"{index}.png")
        lines.append(f"ask\t{index}\t{folder / f'{index}.png'}\t{question}")
    for count in (FEW, CASES):
        kept = [*lines[:count], *lines[CASES : CASES + count]]
        (folder / f"{count}.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "sanitize"),
    [
        ("int4", "address,undefined"),
        ("tiny-flow", "address,undefined"),
        # Minutes each, in ONNX Runtime, and its threads; what is ours is the same as above.
        pytest.param("int4", "thread", marks=pytest.mark.slow),
        pytest.param("tiny-flow", "thread", marks=pytest.mark.slow),
        pytest.param("tiny-janus", "address,undefined", marks=pytest.mark.slow),
        pytest.param("tiny-janus", "thread", marks=pytest.mark.slow),
    ],
)
def test_stress(
    build: Callable[[str], Build],
    release: Build,
    int4_dir: Path,
    cases: Path,
    name: str,
    sanitize: str,
) -> None:
    """The same results as without, and no report."""
    bundle, count = (int4_dir, CASES) if name == "int4" else (SHIPPED / name, FEW)
    found = stress(build(sanitize), bundle, "cases", cases / f"{count}.txt")
    assert len(found) == 2 * count
    assert found == stress(release, bundle, "cases", cases / f"{count}.txt")
    stress(build(sanitize), bundle, "at-once")
    stress(build(sanitize), bundle, "one-job")
    assert int(stress(build(sanitize), bundle, "cancel", str(4 * count))[0].split()[0]) > 0


def test_one_job_on_several_threads(release: Build) -> None:
    """Refused, not a crash; freed while it works."""
    for _ in range(3):
        stress(release, SHIPPED / "tiny-janus", "one-job")


@pytest.mark.parametrize("part", [0.2, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sanitize", ["", *SANITIZERS])
def test_opened_and_closed_a_thousand_times(
    build: Callable[[str], Build], sanitize: str, part: float
) -> None:
    """No report. Without sanitizers, which keep what is freed, as much is allocated at the end as
    after the first tenth, but for 0.5 KiB each. With them, which are slow, a hundred times."""
    times = round(part * (100 if sanitize else 1000))
    words = ("reopen", str(times))
    held = list(map(int, stress(build(sanitize), SHIPPED / "tiny-janus", *words)))
    assert len(held) == 10
    if not sanitize:
        assert 0 < held[-1] < held[0] + times / 2, held  # KiB


@pytest.mark.parametrize("sanitize", ["", "address,undefined", ARM])
def test_vectors(build: Callable[[str], Build], tmp_path: Path, sanitize: str) -> None:
    """native/core computes what tests/vectors say, as Python does."""
    for path in FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, text in TOKENIZERS.items():
        (tmp_path / f"{name}.bin").write_bytes(compile_tokenizer(text))
    assert checked(*build(sanitize).command("vectors"), tmp_path).endswith(" 0 wrong\n")


@pytest.mark.parametrize("sanitize", SANITIZERS)
def test_every_instruction_set(build: Callable[[str], Build], sanitize: str) -> None:
    """The CPU kernels with all that this machine has, which agree."""
    found = test_bits.run(build(sanitize), [(3, test_bits.SETS)])
    assert set(found) == test_bits.expected_sets("") | {"portable"}
    test_bits.same(found, found["portable"])


@pytest.mark.parametrize("kind", ["address,undefined", ARM])
@pytest.mark.parametrize("target", ["image", "manifest", "tokenizer"])
def test_what_the_fuzzers_found(
    build: Callable[[str], Build], tmp_path: Path, target: str, kind: str
) -> None:
    """Whatever they came upon that took another path; docs/c-api.md says how."""
    with tarfile.open(CORPUS / f"{target}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) > 200
    command = build(kind).command(f"fuzz_{target}")
    assert checked(*command, *files) == f"{len(files)} files\n"
