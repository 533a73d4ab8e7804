"""The vision encoder and the image decoder by the CPU kernels: 8-bit weights, mapped."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from janus_edge.runtime.backends import Arrays
from janus_edge.runtime.backends.cpu_library import Pool, Weights
from janus_edge.runtime.backends.cpu_lookup import Lookup
from janus_edge.runtime.manifest import Component
from janus_edge.runtime.sizes import CodeSizes, FlowSizes, Sizes


class _EncoderSizes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("image_size", "patch_size", "num_heads")),
        ("epsilon", ctypes.c_float),
    )


class _DecoderSizes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int32) for name in ("cell_channels", "side", "num_groups"))


def runs(component: Component, sizes: Sizes) -> bool:
    """Return True if the component lists what the kernels need."""
    return bool(component.tensors and component.constants)


class _Images:
    """What both components share: one image at a time, an array in and an array out."""

    def __init__(self, name: str, pool: Pool, component: Component) -> None:
        self._name, self._pool = name, pool
        self._run = getattr(pool.library, f"je_{name}_run")
        self._given, self._made = component.inputs[0].name, component.outputs[0].name
        self._shape = tuple(map(int, component.outputs[0].shape[1:]))
        self._address: int | None = None

    def __del__(self) -> None:
        """Close the component."""
        if getattr(self, "_address", None):
            getattr(self._pool.library, f"je_{self._name}_close")(self._address)

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return the output, in a new array."""
        made = np.empty((len(inputs[self._given]), *self._shape), np.float32)
        self.bind(inputs, {self._made: made})()
        return [made]

    def zeros(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return a cleared array."""
        return np.zeros(shape, dtype)

    def bind(
        self, inputs: Arrays, outputs: Arrays, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call on fixed arrays."""
        given, made = inputs[self._given], outputs[self._made]
        assert given.flags.c_contiguous and made.flags.c_contiguous

        def call() -> None:
            for one, result in zip(given, made, strict=True):
                ready = self._prepared(one)
                if self._run(self._address, ready.ctypes.data, result.ctypes.data, None):
                    raise MemoryError(f"no memory for an image of {self._name}")

        return call

    def _prepared(self, one: np.ndarray) -> np.ndarray:
        return one


class CpuEncoder(_Images):
    """The vision encoder as an ``Engine``: pixels (B, 3, S, S) to features (B, N, C)."""

    def __init__(self, folder: Path, component: Component, sizes: Sizes, pool: Pool) -> None:
        """Map the weights.

        Args:
            folder: The bundle's folder.
            component: The encoder in the manifest.
            sizes: The sizes of the bundle.
            pool: The threads.

        Raises:
            BundleError: A weight is missing or lies outside the file, or sizes do not fit.
        """
        super().__init__("encoder", pool, component)
        self._weights = weights = Weights(folder, component)
        heads, patch = (weights.constant(component, name) for name in ("heads", "patch_size"))
        known = _EncoderSizes(
            sizes.image_size, int(patch), int(heads), weights.constant(component, "epsilon")
        )
        library = pool.library
        self._address = Lookup(weights).open(library.je_encoder_open, known, pool)
        found = (
            library.je_encoder_num_patches(self._address),
            library.je_encoder_width(self._address),
        )
        weights.require(found == self._shape)


class CpuImageDecoder(_Images):
    """The image decoder as an ``Engine``: codes (B, N) or latents to pixels (B, 3, S, S)."""

    def __init__(self, folder: Path, component: Component, sizes: Sizes, pool: Pool) -> None:
        """Map the weights; the arguments and errors are those of ``CpuEncoder``."""
        super().__init__("image_decoder", pool, component)
        self._weights = weights = Weights(folder, component)
        self._codebook: np.ndarray | None = None
        if isinstance(sizes, CodeSizes):
            channels, side = weights.count("codebook") // sizes.codebook_size, sizes.code_grid
            self._codebook = weights.array("codebook", (sizes.codebook_size, channels))
        else:
            assert isinstance(sizes, FlowSizes)
            channels, side = sizes.latent_channels, sizes.latent_size
        groups = int(weights.constant(component, "groups"))
        known = _DecoderSizes(channels, side, groups)
        library = pool.library
        self._address = Lookup(weights).open(library.je_image_decoder_open, known, pool)
        size = library.je_image_decoder_image_size(self._address)
        weights.require((3, size, size) == self._shape)

    def _prepared(self, one: np.ndarray) -> np.ndarray:
        """Return the cells (N, E): the codes' vectors, or those of a latent (E, h, w).

        Raises ValueError for a code that there is not.
        """
        if self._codebook is None:
            return np.ascontiguousarray(one.reshape(len(one), -1).T)
        if one.min() < 0 or one.max() >= len(self._codebook):
            raise ValueError(f"codes from {one.min()} to {one.max()} of {len(self._codebook)}")
        return np.ascontiguousarray(self._codebook[one])
