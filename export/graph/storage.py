"""Smaller files: weights are stored as fp16 where that changes nothing.

The graph casts them back, so all arithmetic stays float32. fp16 holds every bfloat16 value from
2^-14 to its largest. Below 2^-14 it is off by at most 2^-25, which no parity check can see.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_ELEMENTS = 256
LARGEST_ERROR = 2.0**-25  # half of the smallest number of fp16


def store_halves(proto: onnx.ModelProto) -> str:
    """Change the model in place; return the dtype that holds most of its weights."""
    graph, sizes = proto.graph, Counter[int]()
    casts = []
    for initializer in graph.initializer:
        size = int(np.prod(initializer.dims))
        if initializer.data_location == TensorProto.EXTERNAL:
            sizes[initializer.data_type] += size
            continue
        if initializer.data_type != TensorProto.FLOAT:
            continue
        half = None if size < MIN_ELEMENTS else halve(numpy_helper.to_array(initializer))
        sizes[TensorProto.FLOAT if half is None else TensorProto.FLOAT16] += size
        if half is not None:
            name = initializer.name
            initializer.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return "float16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "float32"


def halve(array: np.ndarray) -> np.ndarray | None:
    """Return the array as fp16, None if that would change its values."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = array.astype(np.float16)
        error = np.abs(half - array).max(initial=0)
    return half if error <= LARGEST_ERROR else None  # also None if the error is infinite or NaN
