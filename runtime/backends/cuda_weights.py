"""A bundle's weights on a GPU, laid out for our kernels (docs/kernels.md, "A decode step").

The bundle has them in tiles. These bytes go to the device as they are, and the kernels ``repack4``
and ``repack8`` lay them out there, once.

Shapes: O outputs, I inputs, K scales per output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from janus_edge.runtime.backends.cpu_library import Weights
from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.cuda import DeviceArray
from janus_edge.runtime.manifest import Component
from janus_edge.runtime.tiles import TILE

_WORDS = 16  # of a group of inputs, for one output


@dataclass(frozen=True)
class Words:
    """A matrix on the device.

    Attributes:
        words: (O, I / group, 16) int32.
        scales: (O, K) float32.
        outputs: O, with what fills it up.
        inputs: I, rounded up to whole blocks.
    """

    words: DeviceArray
    scales: DeviceArray
    outputs: int
    inputs: int


class DeviceWeights:
    """Copies a component's weights to a GPU."""

    def __init__(self, gpu: Gpu, folder: Path, component: Component, what: str) -> None:
        """Map the weights.

        Args:
            gpu: The GPU and the bundle's kernels.
            folder: The bundle's folder.
            component: Whose weights they are.
            what: Names it in the error for memory that is short.

        Raises:
            BundleError: There is no such file.
        """
        self.gpu, self._host, self._what = gpu, Weights(folder, component), what

    def chain(self) -> list[str]:
        """Return the layers whose weights are in tiles, in the file's order."""
        return self._host.chain()

    def require(self, fits: bool) -> None:
        """Raise BundleError unless the sizes that the weights have fit together."""
        self._host.require(fits)

    def outputs(self, layer: str, bits: int, inputs: int) -> int:
        """Return how many outputs a layer has. Raises BundleError unless it has these inputs."""
        _, _, (outputs, _) = self._host.tiles(layer, bits, inputs, 0)
        return int(outputs)

    def vector(self, name: str, shape: tuple[int, ...]) -> DeviceArray:
        """Return an array of float32. Raises BundleError, DeviceError."""
        made = self.gpu.cuda.uploaded(self._host.array(name, shape))
        self.gpu.cuda.synchronize()
        return made

    def bias(self, layer: str, outputs: int) -> DeviceArray:
        """Return a layer's bias, zeros if it has none. Raises BundleError, DeviceError."""
        if f"{layer}.bias" in self._host.tensors:
            return self.vector(f"{layer}.bias", (outputs,))
        return self.gpu.cuda.zeros((outputs,), "float32", self._what)

    def words(
        self,
        layers: Sequence[str],
        bits: int,
        inputs: int = 0,
        outputs: int = 0,
        *,
        multiple: int = 1,
    ) -> Words:
        """Return the weights of layers that take the same, those of one after another.

        Args:
            layers: Their names.
            bits: Of the weights.
            inputs: How many inputs each must have; 0: as many as there are.
            outputs: The same of outputs.
            multiple: Each layer's outputs are filled up to a multiple of this, by zeros.

        Raises:
            BundleError: There are others, or they lie outside the file.
            DeviceError: The GPU has no room.
        """
        cuda, kernels = self.gpu.cuda, self.gpu.kernels
        found = [self._host.tiles(each, bits, inputs, outputs) for each in layers]
        _, layout, (_, own_inputs) = found[0]
        self.require(all(shape[1] == own_inputs for _, _, shape in found))
        kernel, group = f"repack{bits}", 32 // bits * _WORDS
        kernels.require(kernel, "BLOCK", layout.block)
        blocks = -(-own_inputs // layout.block)
        self.require(blocks * layout.block % group == 0)
        groups, rooms = blocks * layout.block // group, [-(-s[0] // multiple) for _, _, s in found]
        total = sum(rooms) * multiple
        words = cuda.zeros((total, groups, _WORDS), "int32", self._what)
        scales = cuda.zeros((total, blocks), "float32", self._what)
        first = 0
        for (tiles, _, (rows, _)), room in zip(found, rooms, strict=True):
            given = cuda.array(tiles.shape, "uint8", self._what)
            cuda.upload(given, tiles)
            kernels.launch(
                kernel,
                -(-rows // TILE) * groups,
                *(given, given),
                words.view((rows, groups, _WORDS), first * groups * _WORDS),
                scales.view((rows, blocks), first * blocks),
                *(rows, groups),
            )
            first += room * multiple
        cuda.synchronize()  # the mapped bytes are read, and their copies can go
        return Words(words, scales, total, blocks * layout.block)
