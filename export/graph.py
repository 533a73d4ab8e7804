"""ONNX graphs by hand: nodes and weights in the making.

Weights lie in the graph, or, slice by slice, in a file beside it. The latter is for those too large
to be held as float32: each slice is stored as halves and cast just before its product, so that a
product's weights are upcast while they are in the processor's cache and never all at once. That
needs an engine that runs the nodes in the order given here (``upcast: use`` in the manifest).
Rounded weights (export/quantize.py) are used as they are stored, wherever they lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from janus_edge.export.quantize import Blocks, pack
from janus_edge.export.storage import halve

OPSET = 24
IR_VERSION = 11
MICROSOFT = "com.microsoft"
SLICE = 2**21  # weights a slice: 8 MB as float32. 2**20 to 2**22 were equally fast (docs/log.md)
ALIGNMENT = 4096  # bytes: of a memory page

Shape = list[str | int]


class Graph:
    """Nodes and initializers; every call returns the name of what it made."""

    def __init__(self, data: Path | None = None, blocks: Blocks | None = None) -> None:
        """data: the file to write the products' weights to; None: in the graph. blocks: how they
        are rounded; None: not at all."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._data, self._blocks = data, blocks
        self._rows: dict[str, tuple[str, str]] = {}  # rounded inputs, shared by products
        self._file: BinaryIO | None = None if data is None else data.open("wb")

    def constant(self, name: str, array: np.ndarray) -> str:
        """An array in the graph."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> str:
        """A node; the name of its first output."""
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def linear(self, x: str, name: str, weight_OI: Tensor, bias_O: Tensor | None = None) -> str:
        """x (..., I) times the transposed weight, and a bias."""
        if bias_O is not None:
            product = self.linear(x, f"{name}.product", weight_OI)
            bias = self.constant(f"{name}.bias", bias_O.detach().numpy())
            return self.node("Add", [product, bias], [name])
        if self._blocks is not None:
            return self._rounded(x, name, weight_OI.detach().numpy(), self._blocks)
        weight_IO = weight_OI.detach().numpy().T
        if self._file is None:
            return self.node("MatMul", [x, self.constant(f"{name}.weight", weight_IO)], [name])
        rows, width = weight_IO.shape
        step = max(1, SLICE // rows)
        parts = []
        for index, start in enumerate(range(0, width, step)):
            weight = self._slice(f"{name}.weight.{index}", weight_IO[:, start : start + step])
            parts.append(self.node("MatMul", [x, weight], [f"{name}.{index}"]))
        return self.node("Concat", parts, [name], axis=-1)

    def _rounded(self, x: str, name: str, weight_OI: np.ndarray, blocks: Blocks) -> str:
        levels, scales_OK = pack(weight_OI, blocks)
        keep = self.constant if self._file is None else self._external
        if not blocks.size:
            signed_IO = (levels[:, 0].astype(np.int16) - 128).astype(np.int8).T
            levels_IO = keep(f"{name}.weight.levels", np.ascontiguousarray(signed_IO))
            scales_O = self.constant(f"{name}.weight.scales", scales_OK[:, 0])
            return self._integers(x, name, levels_IO, scales_O, weight_OI.shape[1])
        return self.node(
            "MatMulNBits",
            [x, keep(f"{name}.weight.levels", levels), keep(f"{name}.weight.scales", scales_OK)],
            [name],
            domain=MICROSOFT,
            K=weight_OI.shape[1],
            N=weight_OI.shape[0],
            bits=blocks.bits,
            block_size=blocks.size,
            accuracy_level=4,
        )

    def _integers(self, x: str, name: str, levels_IO: str, scales_O: str, num_inputs: int) -> str:
        """A product of integers; the weights' scales are the operator's, the rows' come after it.

        The activations are unsigned around 128, as x86 multiplies unsigned by signed numbers.
        ONNX Runtime's DynamicQuantizeMatMul has one scale for all rows: rows of SigLIP differ too
        much for that.
        """
        if x not in self._rows:
            self._rows[x] = self._rounded_rows(x, num_inputs)
        integers, scales = self._rows[x]
        product = self.node(
            "MatMulIntegerToFloat",
            [integers, levels_IO, "rows.one", scales_O, "rows.zero"],
            [f"{name}.of_levels"],
            domain=MICROSOFT,
        )
        return self.node("Mul", [product, scales], [name])

    def _rounded_rows(self, x: str, num_inputs: int) -> tuple[str, str]:
        """x (..., I) as uint8 around 128, and a scale a row (..., 1)."""
        if not self._rows:
            self.constant("rows.one", np.array(1, np.float32))
            self.constant("rows.zero", np.array(128, np.uint8))
            self.constant("rows.least", np.array(1e-12, np.float32))
            self.constant("rows.level", np.array(1 / 127, np.float32))
            self.constant("rows.last", np.array([-1]))
        size = self.node("Abs", [x], [f"{x}.size"])
        peak = self.node("ReduceMax", [size, "rows.last"], [f"{x}.peak"], keepdims=1)
        positive = self.node("Max", [peak, "rows.least"], [f"{x}.positive"])
        scale = self.node("Mul", [positive, "rows.level"], [f"{x}.scale"])
        # QuantizeLinear takes a scale for every index of one axis: all rows become one axis
        flat = self.constant(f"{x}.flat_shape", np.array([-1, num_inputs]))
        flat_x = self.node("Reshape", [x, flat], [f"{x}.flat"])
        flat_scale = self.node("Reshape", [scale, "rows.last"], [f"{x}.flat_scale"])
        shape = self.node("Shape", [flat_scale], [f"{x}.num_rows"])
        zero = numpy_helper.from_array(np.array([128], np.uint8))
        zeros = self.node("ConstantOfShape", [shape], [f"{x}.zeros"], value=zero)
        levels = self.node(
            "QuantizeLinear", [flat_x, flat_scale, zeros], [f"{x}.flat_levels"], axis=0
        )
        whole = self.node("Shape", [x], [f"{x}.shape"])
        return self.node("Reshape", [levels, whole], [f"{x}.levels"]), scale

    def norm(self, x: str, name: str, weight: Tensor, epsilon: float) -> str:
        """Root-mean-square norm over the last axis."""
        scale = self.constant(f"{name}.weight", weight.detach().numpy())
        return self.node("RMSNormalization", [x, scale], [name], axis=-1, epsilon=epsilon)

    def model(self, name: str, inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
        """The finished model; the file of weights is closed."""
        if self._file is not None:
            self._file.close()
        body = helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)

    def _slice(self, name: str, array: np.ndarray) -> str:
        """Weights in the file, as halves with a cast where they can be."""
        half = halve(array)
        if half is None:
            return self._external(name, np.ascontiguousarray(array))
        stored = self._external(f"{name}.half", np.ascontiguousarray(half))
        return self.node("Cast", [stored], [name], to=TensorProto.FLOAT)

    def _external(self, name: str, array: np.ndarray) -> str:
        assert self._file is not None and self._data is not None
        self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": self._data.name, "offset": self._file.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        self._file.write(array.data)
        return name


def info(name: str, dtype: int, shape: Shape) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def save_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Write a graph and check it, with the weights beside it."""
    onnx.save(proto, path)
    onnx.checker.check_model(path)
