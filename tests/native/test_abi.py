"""The C API's binary face: structs of other versions, their layout, symbols, versions."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import janus_edge
from janus_edge.runtime.bundle import SHIPPED
from tests.native import capi
from tests.native.capi import STRUCTS, Api, ApiError
from tests.native.conftest import NATIVE, Build, checked

JANUS = SHIPPED / "tiny-janus"


def test_an_older_program_still_runs(api: Api, release: Build) -> None:
    """Built with structs that end earlier (tests/native/older/janus_edge.h)."""
    words = (release.program("older"), JANUS, capi.onnxruntime_library())
    total, *sizes = map(int, checked(*words).split())
    now = [ctypes.sizeof(each) for each in (capi.Options, capi.Request, capi.RawEvent)]
    assert all(then < size for then, size in zip(sizes, now, strict=True))
    with api.session(JANUS) as session:
        (event,) = api.draw(session, prompt=b"three red circles", seed=3)
    assert event.pixels is not None and total == event.pixels.astype(int).sum()


def test_a_newer_program_is_told(api: Api) -> None:
    """Its structs are longer: what this library does not know must not be set."""

    class Newer(ctypes.Structure):
        _fields_ = (("request", capi.Request), ("unknown", ctypes.c_int64))

    given, job = Newer(), ctypes.c_void_p()
    api.je.je_request_init(ctypes.byref(given), ctypes.sizeof(given))
    given.request.prompt = b"a star"
    with api.session(JANUS) as session:
        start = (session, ctypes.byref(given), ctypes.byref(job))
        assert api.je.je_job_start(*start) == capi.OK
        api.je.je_job_free(job)
        given.unknown = 1
        with pytest.raises(ApiError, match="use a newer one") as caught:
            api.check(api.je.je_job_start(*start))
    assert caught.value.status == capi.E_ABI


def test_more_ids_than_bytes(release: Build) -> None:
    """The C++ wrapper gives all of them, also of a text that is longer once it is lower case."""
    text = "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}" * 40
    words = (release.program("stress"), capi.onnxruntime_library(), JANUS, "tokenize", text)
    expected = Tokenizer.from_file(str(JANUS / "tokenizer.json")).encode(text).ids
    assert list(map(int, checked(*words).split())) == expected
    assert len(expected) > len(text.encode()) + 1


def test_ctypes_has_the_headers_layout(tmp_path: Path) -> None:
    """Every field of every struct lies where a C compiler puts it; the header is C99 and C++."""
    lines = [
        f'printf("%zu %zu\\n", offsetof({name}, {field}), sizeof(((({name} *)0)->{field})));'
        for name, struct in STRUCTS.items()
        for field, _ in struct._fields_
    ]
    lines += [f'printf("0 %zu\\n", sizeof({name}));' for name in STRUCTS]
    source = tmp_path / "layout.c"
    body = "\n".join(lines)
    source.write_text(
        f'#include <stdio.h>\n#include "janus_edge.h"\nint main(void) {{\n{body}\nreturn 0; }}\n',
        encoding="utf-8",
    )
    flags = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{NATIVE / 'include'}")
    checked("gcc", "-std=c99", *flags, source, "-o", tmp_path / "layout")
    checked("g++", "-std=c++17", "-fsyntax-only", "-x", "c++", *flags, source)
    expected = [
        f"{(at := getattr(struct, field)).offset} {at.size}"
        for struct in STRUCTS.values()
        for field, _ in struct._fields_
    ]
    expected += [f"0 {ctypes.sizeof(struct)}" for struct in STRUCTS.values()]
    assert checked(tmp_path / "layout").splitlines() == expected


def test_only_the_headers_functions_are_exported(release: Build) -> None:
    listed = checked("nm", "-D", "--defined-only", release.library).splitlines()
    found = {line.split()[-1] for line in listed}
    header = (NATIVE / "include/janus_edge.h").read_text(encoding="utf-8")
    declared = {
        line.split("(")[0].split()[-1].lstrip("*")
        for line in header.splitlines()
        if line.startswith("JE_API")
    }
    assert found == declared and len(declared) == 16


def test_versions(api: Api) -> None:
    assert api.je.je_version().decode() == janus_edge.__version__
    cmake = (NATIVE / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f"VERSION {janus_edge.__version__} " in cmake
    assert api.je.je_abi() == 1 and "set(JANUS_EDGE_ABI 1)" in cmake
