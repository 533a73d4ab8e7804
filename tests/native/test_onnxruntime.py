"""ONNX Runtime behind the C API: which file it is, and what it says when something is wrong."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from janus_edge.runtime.bundle import SHIPPED
from tests.native import capi
from tests.native.capi import Api, ApiError
from tests.native.conftest import NATIVE, Build, checked
from tests.runtime.test_manifest import rewrite

JANUS = SHIPPED / "tiny-janus"


def failing_graph() -> bytes:
    """An image decoder that looks up what is not there, when it runs."""
    codes = helper.make_tensor_value_info("codes", onnx.TensorProto.INT64, ["B", 64])
    pixels = helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["B", 3, 64, 64])
    numbers = {"table": np.zeros(1, np.float32), "shape": np.array([1, 3, 64, 64])}
    nodes = [
        helper.make_node("Gather", ["table", "codes"], ["found"]),
        helper.make_node("ReduceSum", ["found"], ["sum"]),
        helper.make_node("Expand", ["sum", "shape"], ["pixels"]),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in numbers.items()]
    graph = helper.make_graph(nodes, "failing", [codes], [pixels], constants)
    opset = helper.make_opsetid("", 21)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


@pytest.mark.parametrize("make", [lambda: b"no graph", failing_graph])
def test_nothing_prints(release: Build, tmp_path: Path, make: Callable[[], bytes]) -> None:
    """Neither where ONNX Runtime cannot open a graph, nor where the graph fails."""
    graph = make()

    def change(manifest: dict[str, Any]) -> None:
        component = manifest["components"]["image_decoder"]
        component["sha256"] = hashlib.sha256(graph).hexdigest()

    bundle = rewrite(JANUS, tmp_path, change)
    (bundle / "image_decoder.onnx").write_bytes(graph)
    words = (release.program("stress"), capi.onnxruntime_library(), bundle, "at-once")
    done = subprocess.run(list(map(str, words)), capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "image_decoder.onnx: " in done.stderr


def test_no_memory_is_no_damage(release: Build) -> None:
    """Where the system gives no more of it, the bundle is not blamed; once it does, all is well."""
    checked(release.program("stress"), capi.onnxruntime_library(), JANUS, "no-memory")


def test_one_library_by_any_name(release: Build, api: Api, tmp_path: Path) -> None:
    """A link to the library that is open is that library; a copy of it is another."""
    link, copy = tmp_path / "linked.so", tmp_path / "copied.so"
    link.symlink_to(capi.onnxruntime_library())
    shutil.copy(capi.onnxruntime_library(), copy)
    with api.session(JANUS), api.session(JANUS, onnxruntime=str(link).encode()):
        pass
    with (
        pytest.raises(ApiError, match="name that one"),
        api.session(JANUS, onnxruntime=str(copy).encode()),
    ):
        pass


def test_no_onnxruntime_is_one_line(release: Build, tmp_path: Path) -> None:
    """By a program of its own, as a process keeps the first library it has opened."""
    words = [release.program("draw_and_ask"), JANUS, "a", tmp_path / "a.png", "b"]
    for library in ("/nonexistent.so", str(NATIVE / "CMakeLists.txt"), str(release.library)):
        done = subprocess.run([*map(str, words), library], capture_output=True, encoding="utf-8")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and "ONNX Runtime" in done.stderr


def test_onnxruntime_beside_the_library(release: Build, tmp_path: Path) -> None:
    """It is found there; one that is there and cannot be opened is what the error is about."""
    words = [tmp_path / "draw_and_ask", JANUS, "a", tmp_path / "a.png", "b"]
    for file in (release.library, release.program("draw_and_ask")):
        shutil.copy(file, tmp_path)
    shutil.copy(capi.onnxruntime_library(), tmp_path / "libonnxruntime.so.1")
    assert "8 previews" in checked(*words, LD_LIBRARY_PATH=str(tmp_path))
    (tmp_path / "libonnxruntime.so.1").unlink()
    (tmp_path / "libonnxruntime.so").write_bytes(b"no library")
    env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(list(map(str, words)), capture_output=True, encoding="utf-8", env=env)
    assert done.returncode == 1 and f"{tmp_path}/libonnxruntime.so: " in done.stderr
    assert "No such file" not in done.stderr and done.stderr.count("\n") == 1
