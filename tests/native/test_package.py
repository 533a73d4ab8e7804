"""Installed, the library is found by CMake and by pkg-config; the examples run; a wheel carries
what is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_edge.native import PREFIX
from janus_edge.runtime.bundle import SHIPPED
from janus_edge.runtime.requests import ImageRequest
from tests.native.capi import onnxruntime_library
from tests.native.conftest import NATIVE, ROOT, Build, checked, reference
from tests.network import run_watched
from tests.pages import blocks

JANUS = SHIPPED / "tiny-janus"
PROJECT = """
cmake_minimum_required(VERSION 3.20)
project(outside LANGUAGES C)
find_package(janus_edge 0.1 REQUIRED)
add_executable(outside main.c)
target_link_libraries(outside PRIVATE janus_edge::janus_edge)
"""


@pytest.fixture(scope="module")
def prefix(release: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation."""
    folder = tmp_path_factory.mktemp("prefix")
    checked("cmake", "--install", release.folder, "--prefix", folder)
    return folder


@pytest.fixture
def lib(prefix: Path) -> Path:
    """Where the library is, by what the system calls that folder."""
    (found,) = prefix.rglob("libjanus_edge.so.1")
    return found.parent


def drawn(prompt: str, seed: int = 0, model: str = "tiny-janus") -> np.ndarray:
    (image,) = reference(model).drawn(ImageRequest(prompt=prompt, seed=seed))
    return image.pixels


def read(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


def run_example(program: Path, cwd: Path, **env: str) -> str:
    words = ("three red circles", "out.png", "how many circles are there?", onnxruntime_library())
    return checked(program, JANUS, *words, cwd=cwd, **env)


def test_cmake_finds_it(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(PROJECT, encoding="utf-8")
    shutil.copy(NATIVE / "examples/draw_and_ask.c", tmp_path / "main.c")
    build = tmp_path / "build"
    checked("cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    checked("cmake", "--build", build)
    assert run_example(build / "outside", tmp_path).splitlines()[-1] == "three"


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config here")
def test_pkg_config_finds_it(lib: Path, tmp_path: Path) -> None:
    flags = checked(
        "pkg-config", "--cflags", "--libs", "janus_edge", PKG_CONFIG_PATH=str(lib / "pkgconfig")
    )
    source = NATIVE / "examples/draw_and_ask.c"
    checked("gcc", source, *flags.split(), "-o", tmp_path / "program")
    out = run_example(tmp_path / "program", tmp_path, LD_LIBRARY_PATH=str(lib))
    assert out.splitlines()[-1] == "three"


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config here")
@pytest.mark.parametrize("libdir", ["lib", "lib64", "lib/x86_64-linux-gnu"])
def test_pkg_config_knows_each_systems_folders(tmp_path: Path, libdir: str) -> None:
    """Wherever the library goes, and wherever the tree is then moved to."""
    build, home = tmp_path / "build", tmp_path / "usr" / libdir / "pkgconfig"
    options = ("-DCMAKE_INSTALL_PREFIX=/usr", f"-DCMAKE_INSTALL_LIBDIR={libdir}")
    checked("cmake", "-S", NATIVE, "-B", build, *options)
    home.mkdir(parents=True)
    shutil.copy(build / "janus_edge.pc", home)
    words = ("pkg-config", "--keep-system-cflags", "--keep-system-libs", "janus_edge")
    for option, folder in (("--cflags", "include"), ("--libs-only-L", libdir)):
        found = checked(*words, option, PKG_CONFIG_PATH=str(home)).strip()
        assert Path(found[2:]).resolve() == tmp_path / "usr" / folder
    prefix = checked(*words, "--variable=prefix", PKG_CONFIG_PATH=str(home)).strip()
    assert Path(prefix).resolve() == tmp_path / "usr"


def test_the_example_in_c(release: Build, tmp_path: Path) -> None:
    out = run_example(release.program("draw_and_ask"), tmp_path).splitlines()
    assert re.fullmatch(r"out\.png: 8 previews, \d+ ms", out[0]) and out[1] == "three"
    assert np.array_equal(read(tmp_path / "out.png"), drawn("three red circles"))


def test_the_program_of_the_readme(lib: Path, prefix: Path, tmp_path: Path) -> None:
    """Compiled, linked and run in README's words, with the library where an installation has it."""
    (program,) = blocks(ROOT / "README.md", "c")
    (shell,) = (each for each in blocks(ROOT / "README.md", "sh") if "gcc draw.c" in each.text)
    _, build, start = shell.text.strip().splitlines()
    (tmp_path / "draw.c").write_text(program.text, encoding="utf-8")
    (tmp_path / "native").mkdir()
    for name, target in (("native/include", prefix / "include"), ("native/lib", lib)):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "bundles").symlink_to(SHIPPED)
    checked("bash", "-c", f"{build} -std=c99 -Wall -Wextra -Wpedantic -Werror", cwd=tmp_path)
    line = start.replace(".venv/bin/python", sys.executable)
    assert checked("bash", "-ec", line, cwd=tmp_path) == ""
    assert np.array_equal(read(tmp_path / "out.png"), drawn("a red apple", model="tiny-things"))
    said = subprocess.run(
        ["./draw"],
        cwd=tmp_path,
        env={"ONNXRUNTIME": "none.so"},
        capture_output=True,
        encoding="utf-8",
    )
    assert said.returncode == 1 and "ONNX Runtime cannot be opened: none.so" in said.stderr


def test_the_example_in_c_looks_nothing_up(release: Build, tmp_path: Path) -> None:
    """Nor does it leave anything in the home folder but our own cache; the same of Python's is
    tested in tests/cli/test_network.py."""
    words = (JANUS, "three red circles", "out.png", "how many circles are there?")
    _, lookups, left = run_watched(
        [release.program("draw_and_ask"), *words, onnxruntime_library()], tmp_path
    )
    assert lookups == []
    assert left and all(path.startswith(".cache/janus-edge/checked/") for path in left)


def test_the_example_in_cpp(release: Build, tmp_path: Path) -> None:
    words = (release.program("draw"), JANUS, "a green star", "2", onnxruntime_library())
    assert checked(*words, cwd=tmp_path) == "out-1.png, seed 0\nout-2.png, seed 1\n"
    for seed in range(2):
        assert np.array_equal(read(tmp_path / f"out-{seed + 1}.png"), drawn("a green star", seed))


@pytest.mark.skipif(shutil.which("rustc") is None, reason="no rustc here")
def test_the_example_in_rust(release: Build, tmp_path: Path) -> None:
    where, program = release.folder, tmp_path / "draw"
    link = ("-L", where, "-l", "janus_edge", "-C", f"link-arg=-Wl,-rpath,{where}")
    checked("rustc", "-O", "-D", "warnings", NATIVE / "examples/draw.rs", *link, "-o", program)
    out = checked(program, JANUS, "a green star", onnxruntime_library(), cwd=tmp_path)
    assert out == "out-0.png, 65 events\nout-1.png, 65 events\n"
    for seed in range(2):
        assert np.array_equal(read(tmp_path / f"out-{seed}.png"), drawn("a green star", seed))


def test_bindings_have_the_headers_fields() -> None:
    """C# and Rust say the structs again; nothing here compiles the former."""
    for file in ("bindings/csharp/JanusEdge.cs", "examples/draw.rs"):
        words = re.findall(
            r"\w+", (NATIVE / file).read_text(encoding="utf-8").lower().replace("_", "")
        )
        for name in _struct_fields():
            assert name.replace("_", "") in words, f"{file}: {name}"


def _struct_fields() -> Iterator[str]:
    from tests.native.capi import STRUCTS

    for struct in ("je_image", "je_options", "je_request", "je_event"):
        yield from (name for name, _ in STRUCTS[struct]._fields_)


def test_a_wheel_carries_what_is_installed(prefix: Path, lib: Path) -> None:
    """But for the links that only help to link, and pkg-config's file, which needs them."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    patterns = setuptools["package-data"]["janus_edge.native"]
    installed = {
        str(path.relative_to(prefix)).replace(str(lib.relative_to(prefix)), "lib")
        for path in prefix.rglob("*")
        if path.is_file() and not path.is_symlink() and path.suffix != ".pc"
    }
    carried = {file for file in installed if any(Path(file).match(each) for each in patterns)}
    assert carried == installed and len(installed) == 6
    assert (PREFIX / "include/janus_edge.h").is_file()
