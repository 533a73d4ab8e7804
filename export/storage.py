"""Smaller files at no loss: weights whose values fit half precision are stored so.

The graph casts them back, ONNX Runtime folds the casts when it opens the file, and all arithmetic
stays float32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_ELEMENTS = 256


def store_halves(proto: onnx.ModelProto) -> str:
    """Change the model in place; returns the dtype that holds most of its weights."""
    graph, halved, kept = proto.graph, 0, 0
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(initializer)
        if array.size < MIN_ELEMENTS or not fits_half(array):
            kept += array.size
            continue
        halved += array.size
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return "float16" if halved > kept else "float32"


def fits_half(array: np.ndarray) -> bool:
    """Whether half precision holds every value exactly."""
    with np.errstate(over="ignore"):
        return bool((array.astype(np.float16).astype(np.float32) == array).all())
