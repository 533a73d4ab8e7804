"""Build ONNX graphs by hand, node by node.

Weights are in the graph, or slice by slice in a file beside it. The file is for weights too large
to be held as float32. Each slice is stored as fp16 and cast just before its matmul, so a matmul's
weights become float32 while they are in the processor's cache, and never all at once. That needs an
engine that runs the nodes in the order given here (``upcast: use`` in the manifest). Quantized
weights (export/quantization/quantize.py) are used as they are stored, wherever they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from janus_edge.export.graph.storage import halve
from janus_edge.export.quantization.calibrate import CacheScales
from janus_edge.export.quantization.quantize import Packer, QuantSpec, pack
from janus_edge.model.config import LanguageConfig
from janus_edge.runtime.tiles import Layout, to_tiles

OPSET = 24
IR_VERSION = 11
MICROSOFT = "com.microsoft"
SLICE = 2**21  # weights per slice, 8 MB as float32; 2**20 to 2**22 are equally fast (docs/log.md)
ALIGNMENT = 4096  # bytes of a memory page

Shape = list[str | int]


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """What two sets of operators say differently.

    Attributes:
        matmul: Adds x (..., I) times quantized weights (O, I). Takes the graph, the name of x, the
            layer's name (its stored weights are named after it), the result's name, the weights and
            their spec; returns the result's name.
        prepare: Adds what all layers share. "cos", "sin", "positions", "lengths" and the caches are
            in the graph by then.
        attention: Adds a layer's attention. Takes the graph, the layer's index, the names of
            queries, keys and values (R, T, D), and the scales of an int8 cache; returns the
            result's name.
        has_slices: Whether fp16 weights beside the graph are multiplied slice by slice, so that
            each slice is upcast in the processor's cache.
    """

    matmul: Callable[[Graph, str, str, str, np.ndarray, QuantSpec], str]
    prepare: Callable[[Graph], None]
    attention: Callable[[Graph, int, tuple[str, str, str], LanguageConfig, CacheScales | None], str]
    has_slices: bool


class Graph:
    """A graph's nodes and initializers. Every call returns the name of what it added."""

    def __init__(
        self,
        lowering: Lowering,
        data: Path | None = None,
        spec: QuantSpec | None = None,
        packer: Packer | None = None,
        tiled: bool = False,
    ) -> None:
        """Begin an empty graph.

        Args:
            lowering: To whose operators.
            data: File for the weights of matrix products; None: they lie in the graph.
            spec: How those are quantized; None: not at all.
            packer: What quantizes them, and keeps the result for others; None: nobody else asks.
            tiled: Whether quantized weights lie in tiles in ``data``, for the CPU kernels.
        """
        self.lowering = lowering
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.rows: dict[str, tuple[str, str]] = {}  # quantized inputs, shared by matrix products
        self.pack = pack if packer is None else packer.pack
        self._data, self._spec, self._tiled = data, spec, tiled
        self._file: BinaryIO | None = None if data is None else data.open("wb")

    @property
    def is_for_prefill(self) -> bool:
        """True if it is made for many rows at once: its weights are quantized per channel."""
        return self._spec is not None and not self._spec.block_size

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an array to the graph."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add an array to the file beside the graph if there is one, else to the graph."""
        keep = self.constant if self._file is None else self._external
        return keep(name, np.ascontiguousarray(array))

    def blocks(self, name: str, quantized: np.ndarray, scales_OK: np.ndarray) -> list[str]:
        """Add weights that are quantized in blocks, and their scales.

        In tiles they are one array of the file, from which the runtime makes both initializers:
        their place in the graph is that of the tiles, whose length does not fit their shapes.

        Args:
            name: The layer.
            quantized: (O, K, S * bits / 8) uint8.
            scales_OK: (O, K) float32.

        Returns:
            The names of both.
        """
        names = [f"{name}.weight.quantized", f"{name}.weight.scales"]
        if not self._tiled or self._file is None:
            return [self.weight(names[0], quantized), self.weight(names[1], scales_OK)]
        assert self._spec is not None and self._spec.block_size is not None
        layout = Layout(self._spec.bits, self._spec.block_size)
        tiles = np.ascontiguousarray(to_tiles(quantized, scales_OK, layout))
        for each, array in zip(names, (quantized, scales_OK), strict=True):
            self._refer(each, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, tiles)
        self._file.write(tiles.data)
        return names

    def nibbles(self, name: str, quantized: np.ndarray) -> str:
        """Store int8 values of -8 to 7, an even number of them, as 4-bit weights."""
        flat = quantized.reshape(-1).view(np.uint8) & 15
        packed = flat[0::2] | flat[1::2] << 4
        if self._file is not None:
            return self._external(name, packed, TensorProto.INT4, quantized.shape)
        self.initializers.append(
            TensorProto(
                name=name,
                data_type=TensorProto.INT4,
                dims=quantized.shape,
                raw_data=packed.tobytes(),
            )
        )
        return name

    def node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> str:
        """Add a node and return the name of its first output."""
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def linear(
        self,
        x: str,
        name: str,
        weight_OI: Tensor,
        bias_O: Tensor | None = None,
        output: str | None = None,
    ) -> str:
        """Return x (..., I) times the transposed weight (O, I), plus a bias (O,).

        The stored weights are named after the layer: ``{name}.weight...`` and ``{name}.bias``. The
        result is named ``output``, by default as the layer.
        """
        weight, output = weight_OI.detach().numpy(), output or name
        if bias_O is None:
            return self._matmul(x, name, output, weight)
        product = self._matmul(x, name, f"{output}.matmul", weight)
        bias = self.weight(f"{name}.bias", bias_O.detach().numpy())
        return self.node("Add", [product, bias], [output])

    def _matmul(self, x: str, name: str, output: str, weight_OI: np.ndarray) -> str:
        if self._spec is not None:
            return self.lowering.matmul(self, x, name, output, weight_OI, self._spec)
        weight_IO = weight_OI.T
        if self._file is None:
            return self.node("MatMul", [x, self.constant(f"{name}.weight", weight_IO)], [output])
        rows, width = weight_IO.shape
        step = max(1, SLICE // rows) if self.lowering.has_slices else width
        parts = []
        for index, start in enumerate(range(0, width, step)):
            weight = self._slice(f"{name}.weight.{index}", weight_IO[:, start : start + step])
            parts.append(self.node("MatMul", [x, weight], [f"{name}.{index}"]))
        return self.node("Concat", parts, [output], axis=-1)

    def norm(self, x: str, name: str, weight: Tensor, epsilon: float) -> str:
        """Add a root-mean-square norm over the last axis."""
        scale = self.weight(f"{name}.weight", weight.detach().numpy())
        return self.node("RMSNormalization", [x, scale], [name], axis=-1, epsilon=epsilon)

    def close(self) -> None:
        """Close the file of weights."""
        if self._file is not None:
            self._file.close()

    def model(self, name: str, inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
        """Return the finished model and close the file of weights."""
        self.close()
        body = helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)
        return helper.make_model(
            body, opset_imports=opsets_of(self.nodes, OPSET), ir_version=IR_VERSION
        )

    def _slice(self, name: str, array: np.ndarray) -> str:
        """Add weights to the file, as fp16 with a cast if that changes nothing."""
        half = halve(array)
        if half is None:
            return self._external(name, np.ascontiguousarray(array))
        stored = self._external(f"{name}.half", np.ascontiguousarray(half))
        return self.node("Cast", [stored], [name], to=TensorProto.FLOAT)

    def _external(
        self,
        name: str,
        array: np.ndarray,
        dtype: int | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> str:
        """Add an array to the file; dtype and shape are the tensor's, by default the array's."""
        own = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._refer(name, dtype or own, shape or array.shape, array)
        assert self._file is not None
        self._file.write(array.data)
        return name

    def _refer(self, name: str, dtype: int, shape: tuple[int, ...], array: np.ndarray) -> None:
        """Add an initializer whose place is that of the array to be written to the file next."""
        assert self._file is not None and self._data is not None
        self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
        tensor = TensorProto(
            name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL
        )
        place = {"location": self._data.name, "offset": self._file.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)


def opsets_of(nodes: Iterable[onnx.NodeProto], opset: int) -> list[onnx.OperatorSetIdProto]:
    """Return the standard operator set, and ONNX Runtime's if a node uses it."""
    found = [helper.make_opsetid("", opset)]
    if any(node.domain == MICROSOFT for node in nodes):
        found.append(helper.make_opsetid(MICROSOFT, 1))
    return found


def info(name: str, dtype: int, shape: Shape) -> onnx.ValueInfoProto:
    """Return an input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def save_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Write a graph and check it, with the weights beside it."""
    onnx.save(proto, path)
    onnx.checker.check_model(path)
