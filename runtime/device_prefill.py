"""The prefill on a GPU: prompts into KV caches that are on the device.

Shapes: see ``runtime/decode.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from janus_edge.runtime.backends.on_device import DeviceEngine
from janus_edge.runtime.cuda import Cuda, DeviceArray
from janus_edge.runtime.kv_cache import KVCache

Send = Callable[[], None]  # sends work to the stream
_KEPT_LENGTHS = 4  # prompt lengths whose buffers and bindings are kept


class Prefill:
    """Fills the first rows of caches with prompts.

    Buffers and bindings are made per prompt length; those of the latest ``_KEPT_LENGTHS`` lengths
    are kept.
    """

    def __init__(self, cuda: Cuda, decoder: DeviceEngine, caches: KVCache) -> None:
        """Prepare nothing yet: bindings are made for the first prompt of each length.

        Args:
            cuda: The GPU.
            decoder: The decoder's engine.
            caches: The caches to fill.
        """
        self._cuda, self._decoder, self._caches = cuda, decoder, caches
        self._bound: dict[tuple[int, int], tuple[dict[str, DeviceArray], DeviceArray, Send]] = {}

    def __call__(self, prompt_RTD: np.ndarray, lengths_R: np.ndarray) -> DeviceArray:
        """Send the prefill to the stream and return the hidden states (R, T, D), without waiting.

        The next call may write over the hidden states.

        Args:
            prompt_RTD: Embeddings of prompts, padded on the right.
            lengths_R: The prompts' lengths without padding.
        """
        rows, time, _ = prompt_RTD.shape
        inputs, hidden, send = self._binding(rows, time, prompt_RTD.shape)
        values = (prompt_RTD, np.tile(np.arange(time), (rows, 1)), lengths_R)
        for array, value in zip(inputs.values(), values, strict=True):
            self._cuda.upload(array, value)
        send()
        return hidden

    def last(self, prompt_RTD: np.ndarray, lengths_R: np.ndarray, hidden: DeviceArray) -> None:
        """Do the same, and copy the hidden state of each prompt's last position.

        Args:
            prompt_RTD: Embeddings of prompts, padded on the right.
            lengths_R: The prompts' lengths without padding.
            hidden: Receives the hidden states, R rows of D.
        """
        found = self(prompt_RTD, lengths_R)
        _, time, width = prompt_RTD.shape
        for row, length in enumerate(lengths_R):
            at = found.view((width,), (row * time + int(length) - 1) * width)
            target = hidden.view((width,), row * width)
            self._cuda.copy(target.address, at.address, at.nbytes)

    def _binding(
        self, rows: int, time: int, shape: tuple[int, ...]
    ) -> tuple[dict[str, DeviceArray], DeviceArray, Send]:
        """Return the inputs, the hidden states and the launch for prompts of a length."""
        made = self._bound.pop((rows, time), None)
        if made is None:
            if len(self._bound) == _KEPT_LENGTHS:
                self._bound.pop(next(iter(self._bound)))
            new, caches = self._cuda.array, self._caches.rows(rows)
            inputs = {
                "embeds": new(shape, "float32"),
                "positions": new((rows, time), "int64"),
                "lengths": new((rows,), "int64"),
            }
            hidden = new(shape, "float32")
            send = self._decoder.prepare_enqueue(
                {**inputs, **caches.past}, {"hidden": hidden, **caches.present}, often=False
            )
            made = inputs, hidden, send
        self._bound[rows, time] = made  # the latest stands last
        return made
