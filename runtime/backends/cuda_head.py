"""The image head and the text head on an NVIDIA GPU by our kernels: 8-bit weights.

Shapes: R rows, D inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from janus_edge.runtime.backends import Arrays, Buffers
from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.backends.cuda_weights import DeviceWeights, Words
from janus_edge.runtime.backends.on_device import EnqueueCall, bound
from janus_edge.runtime.cuda import DeviceArray

_MOST_ROWS = 16  # of a launch: a tile of products
# By component: the kernels of its products, in order.
KERNELS = {"image_head": ("head_hidden", "head_logits"), "text_head": ("text_logits",)}


class CudaHead:
    """A head as an ``Engine``; its calls can also be enqueued and captured.

    Attributes:
        outputs: How many logits it gives.
    """

    def __init__(self, gpu: Gpu, found: DeviceWeights, name: str, inputs: int) -> None:
        """Copy the weights to the GPU.

        Args:
            gpu: The GPU and the bundle's kernels.
            found: The head's weights.
            name: Of the head.
            inputs: Width of the hidden states that it takes.

        Raises:
            BundleError: A weight is missing, or the kernels were compiled for other sizes.
            DeviceError: The GPU has no room, or the bundle has no kernels for it.
        """
        self._gpu, self._name = gpu, name
        layers = found.chain()
        found.require(len(layers) == len(KERNELS[name]))
        self._layers: list[tuple[str, Words, DeviceArray]] = []
        for kernel, layer in zip(KERNELS[name], layers, strict=True):
            gpu.kernels.require(kernel, "WIDTH", inputs)
            words = found.words([layer], 8, inputs)
            self._layers.append((kernel, words, found.bias(layer, words.outputs)))
            inputs = words.outputs
        self.outputs = inputs

    def zeros(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Return cleared memory on the device."""
        return self._gpu.cuda.zeros(shape, dtype, self._name)

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return the logits, in a new array."""
        logits_RO = np.empty((len(inputs["hidden"]), self.outputs), np.float32)
        self.bind(inputs, {"logits": logits_RO})()
        return [logits_RO]

    def bind(
        self, inputs: Buffers, outputs: Buffers, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call on fixed arrays; it returns when its results are there."""
        return bound(self._gpu.cuda, self._name, self.prepare_enqueue, inputs, outputs)

    def prepare_enqueue(
        self,
        inputs: Mapping[str, DeviceArray],
        outputs: Mapping[str, DeviceArray],
        *,
        often: bool = True,
    ) -> EnqueueCall:
        """Return a call that sends the work to the stream and does not wait for it."""
        hidden, logits = inputs["hidden"], outputs["logits"]
        sends = []
        for first in range(0, hidden.shape[0], _MOST_ROWS):
            rows = min(_MOST_ROWS, hidden.shape[0] - first)
            ends = (_rows(array, first, rows) for array in (hidden, logits))
            sends += list(self._sends(*ends))
        return EnqueueCall(sends, (inputs, outputs, self))

    def _sends(self, hidden: DeviceArray, logits: DeviceArray) -> Iterator[Callable[[], None]]:
        """Yield what the products of up to 16 rows send."""
        kernels, rows, given = self._gpu.kernels, hidden.shape[0], hidden
        for kernel, words, bias in self._layers:
            is_last = kernel == KERNELS[self._name][-1]
            size = (rows, words.outputs)
            made = logits if is_last else self._gpu.cuda.array(size, "float32", self._name)
            programs = -(-words.outputs // kernels.constant(kernel, "BLOCK"))
            values = (given, words.words, words.scales, bias, made, rows, words.outputs)
            overlaps = given is not hidden
            yield partial(kernels.launch, kernel, programs, *values, overlaps=overlaps)
            given = made


def _rows(array: DeviceArray, first: int, count: int) -> DeviceArray:
    """Return some of the rows of an array."""
    own = math.prod(array.shape[1:])
    return array.view((count, *array.shape[1:]), first * own)
