"""Time our kernels at Janus-Pro-1B's shape: a step, each kernel, an image, many positions at once.

python -m janus_edge.bench.programs.kernels.step --record bench/records/kernels.jsonl

Weights are random: time does not depend on them. The step is in the middle of an image, two rows.
A kernel's time is that of its launches in a step, one after another in one CUDA graph: together
they read more than the GPU's cache holds. The image's codes come from the loop that bundles use,
from a prompt's embeddings to the last code; the VQ decoder is not in it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.bench.programs.kernels.cubins import copy_speed, open_gpu, times
from janus_edge.diagnostics.records import append_record, checkout_commit
from janus_edge.kernels.compile import compile_kernel
from janus_edge.kernels.spec import Shape, Spec
from janus_edge.kernels.specs import specs
from janus_edge.runtime.backends.cubins import Gpu, Kernels
from janus_edge.runtime.backends.cuda_decoder import CACHE_TYPE, CudaDecoder
from janus_edge.runtime.backends.cuda_head import CudaHead
from janus_edge.runtime.backends.cuda_weights import DeviceWeights, Words
from janus_edge.runtime.cuda import Cuda, DeviceArray
from janus_edge.runtime.decode import Settings
from janus_edge.runtime.device_codes import DeviceCodes
from janus_edge.runtime.kv_cache import KVCache
from janus_edge.runtime.manifest import Kernel
from janus_edge.runtime.sizes import CodeSizes
from janus_edge.runtime.timing import DeviceClock

SCHEMA = "gpu-step/1"
ROWS, PROMPT = 2, 20  # of an image with guidance; tokens of its prompt
MANY = 577  # positions of a row in a step of JanusFlow, whose decoder has this shape
SIZES = CodeSizes(
    hidden_size=2048,
    vocab_size=102400,
    num_layers=24,
    num_kv_heads=16,
    head_dim=128,
    max_length=1024,
    image_size=384,
    num_image_tokens=576,
    code_grid=24,
    codebook_size=16384,
)
_READ = ("words", "scales", "bias", "keys", "values")  # the arguments that a step must read


class RandomWeights(DeviceWeights):
    """Random weights of a shape, in place of a bundle's."""

    def __init__(self, gpu: Gpu, shape: Shape, layers: Sequence[str] = ()) -> None:
        """Take the sizes; ``layers`` are those of a head, in order."""
        self.gpu, self._layers, self._rng = gpu, list(layers), np.random.default_rng(0)
        heads, kv = shape.heads * shape.head_dim, shape.heads // shape.shared * shape.head_dim
        self._shapes = {
            **{"q_proj": (heads, shape.width), "o_proj": (shape.width, heads)},
            **dict.fromkeys(("k_proj", "v_proj"), (kv, shape.width)),
            **dict.fromkeys(("gate_proj", "up_proj"), (shape.inner, shape.width)),
            "down_proj": (shape.width, shape.inner),
            "head_hidden": (shape.head_hidden, shape.width),
            "head_logits": (shape.num_codes, shape.head_hidden),
        }

    def chain(self) -> list[str]:
        """Return the layers."""
        return self._layers

    def require(self, fits: bool) -> None:
        """Raise AssertionError unless sizes fit together."""
        assert fits

    def outputs(self, layer: str, bits: int, inputs: int) -> int:
        """Return how many outputs a layer has."""
        return int(self._shapes[layer.rpartition(".")[2]][0])

    def vector(self, name: str, shape: tuple[int, ...]) -> DeviceArray:
        """Return random numbers. Raises DeviceError."""
        made = self.gpu.cuda.uploaded(self._rng.random(shape, np.float32))
        self.gpu.cuda.synchronize()
        return made

    def bias(self, layer: str, outputs: int) -> DeviceArray:
        """Return random numbers. Raises DeviceError."""
        return self.vector(layer, (outputs,))

    def words(
        self,
        layers: Sequence[str],
        bits: int,
        inputs: int = 0,
        outputs: int = 0,
        *,
        multiple: int = 1,
    ) -> Words:
        """Return random weights of the layers' sizes. Raises DeviceError."""
        shapes = [self._shapes[each.rpartition(".")[2]] for each in layers]
        block, group = (128, 128) if bits == 4 else (32, 64)
        total = sum(-(-rows // multiple) * multiple for rows, _ in shapes)
        blocks = -(-shapes[0][1] // block)
        words = self._rng.integers(-(2**31), 2**31, (total, blocks * block // group, 16), np.int32)
        scales = self._rng.random((total, blocks), np.float32) / 2 ** (bits + 3)
        cuda = self.gpu.cuda
        made = Words(cuda.uploaded(words), cuda.uploaded(scales), total, blocks * block)
        cuda.synchronize()
        return made


class Listing(Kernels):
    """Kernels that list what is launched.

    Attributes:
        sent: The launches; None while they are not listed.
        may_overlap: False: no kernel begins before the one before has ended.
    """

    sent: list[tuple[str, int, tuple[Any, ...]]] | None = None
    may_overlap = True

    def launch(self, name: str, num_programs: int, *values: Any, overlaps: bool = False) -> None:
        """List a launch, and send it."""
        if self.sent is not None:
            self.sent.append((name, num_programs, values))
        overlaps = overlaps and self.may_overlap
        super().launch(name, num_programs, *values, overlaps=overlaps)


def main() -> None:
    """Parse the command line, measure, print and record.

    It exits if there is no GPU, or none that there are cubins for.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    cuda = open_gpu("step")
    with tempfile.TemporaryDirectory() as made:
        folder, found = Path(made), specs(Shape())
        entries = [compile_kernel(spec, cuda.capability, folder) for spec in found]
        kernels = Listing(cuda, folder, tuple(map(Kernel.model_validate, entries)))
        result = measured(Gpu(cuda, kernels), kernels, SIZES, Shape(), found)
    for line in lines(result):
        print(line)
    if options.record:
        record = {
            "schema": SCHEMA,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": checkout_commit(),
            "device": cuda.name,
            **result,
        }
        append_record(options.record, record)


def measured(
    gpu: Gpu, kernels: Listing, sizes: CodeSizes, shape: Shape, found: Sequence[Spec]
) -> dict[str, Any]:
    """Return the times of a step, of each kernel in it, and of an image's codes.

    Args:
        gpu: The GPU with ``kernels``.
        kernels: The kernels, compiled for ``shape``.
        sizes: The model's sizes.
        shape: What the kernels were compiled for.
        found: Their specs.
    """
    speed = copy_speed(gpu.cuda)
    decoder = CudaDecoder(gpu, RandomWeights(gpu, shape), sizes)
    layers = RandomWeights(gpu, shape, ("head_hidden", "head_logits"))
    head = CudaHead(gpu, layers, "image_head", sizes.hidden_size)
    slots, middle = PROMPT + sizes.num_codes, PROMPT + sizes.num_codes // 2
    step = _step(gpu, decoder, head, sizes, slots, middle)
    kernels.sent = []
    step()  # also loads the cubins
    sent, kernels.sent = kernels.sent, None
    read = {
        name: sum(_bytes_read(found, each, middle / slots) for each in sent if each[0] == name)
        for name in dict.fromkeys(name for name, _, _ in sent)
    }
    rows = [
        {
            "kernel": name,
            "launches": sum(each[0] == name for each in sent),
            **_timed(gpu.cuda, partial(_send, kernels, sent, name), num_bytes, speed),
        }
        for name, num_bytes in read.items()
    ]
    kernels.may_overlap = False
    one_by_one = _timed(gpu.cuda, step, sum(read.values()), speed)
    kernels.may_overlap = True
    return {
        "copy_gb_s": round(speed / 1e9, 1),
        "rows": ROWS,
        "filled": middle,
        "step": _timed(gpu.cuda, step, sum(read.values()), speed),
        "step_one_by_one": one_by_one,
        "kernels": rows,
        "many": _many(gpu, decoder, sizes, shape),
        "codes": _codes(gpu, decoder, head, sizes, slots),
    }


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield a result in words."""
    steps = [
        {"kernel": "a step's decoder and head", **result["step"]},
        {"kernel": "the same, kernels one by one", **result["step_one_by_one"]},
    ]
    for row in (*result["kernels"], *steps):
        us, fraction = row["us"], row["bandwidth_fraction"]
        yield f"{row['kernel']}: {us:.1f} us, {fraction:.1%} of the bandwidth"
    many, codes = result["many"], result["codes"]
    rate = f"{many['us']:.0f} us, {many['tflop_s']:.1f} TFLOP/s"
    yield f"{many['positions']} positions at once: {rate}"
    yield (
        f"an image's {codes['codes']} codes: {codes['total_ms']:.0f} ms, "
        f"{codes['step_ms']:.3f} ms a step"
    )


def _step(
    gpu: Gpu, decoder: CudaDecoder, head: CudaHead, sizes: CodeSizes, slots: int, filled: int
) -> Callable[[], None]:
    """Return what sends the decoder and the image head for one position of each row."""
    cuda, width = gpu.cuda, sizes.hidden_size
    caches = KVCache.zeros(decoder, sizes, ROWS, slots, CACHE_TYPE)
    embeds = cuda.uploaded(np.random.default_rng(1).standard_normal((ROWS, 1, width), np.float32))
    positions = cuda.uploaded(np.full((ROWS, 1), filled))
    hidden = cuda.zeros((ROWS, 1, width), "float32")
    logits = cuda.zeros((ROWS, sizes.codebook_size), "float32")
    lengths = cuda.uploaded(np.full(ROWS, filled + 1))
    given = {"embeds": embeds, "positions": positions, "lengths": lengths, **caches.past}
    decode = decoder.prepare_enqueue(given, {"hidden": hidden, **caches.present})
    flat = hidden.view((ROWS, width))
    choose = head.prepare_enqueue({"hidden": flat}, {"logits": logits})

    def step() -> None:
        decode()
        choose()

    return step


def _send(kernels: Kernels, sent: Sequence[tuple[str, int, tuple[Any, ...]]], name: str) -> None:
    """Send the launches of one kernel again."""
    for kernel, programs, values in sent:
        if kernel == name:
            kernels.launch(kernel, programs, *values)


def _bytes_read(
    found: Sequence[Spec], sent: tuple[str, int, tuple[Any, ...]], filled: float
) -> float:
    """Return the bytes of weights, keys and values that a launch must read.

    Args:
        found: The kernels' specs.
        sent: The launch.
        filled: The fraction of the cache's slots that hold something.
    """
    name, _, values = sent
    spec = next(each for each in found if each.name == name)
    named = dict(zip(spec.arguments, values, strict=True))
    return math.fsum(
        named[each].nbytes * (filled if each in ("keys", "values") else 1)
        for each in _READ
        if each in named
    )


def _timed(cuda: Cuda, work: Callable[[], None], num_bytes: float, speed: float) -> dict[str, Any]:
    """Return the time of a graph of ``work`` and the fraction of the memory bandwidth."""
    us = float(np.median(times(cuda, cuda.capture(work)))) * 1e3
    return {
        "us": round(us, 3),
        "mb_read": round(num_bytes / 1e6, 3),
        "bandwidth_fraction": round(num_bytes / (us / 1e6) / speed, 4),
    }


def _many(gpu: Gpu, decoder: CudaDecoder, sizes: CodeSizes, shape: Shape) -> dict[str, Any]:
    """Return the time of many positions of a row after a prompt's first token."""
    cuda, width = gpu.cuda, sizes.hidden_size
    time = min(MANY, sizes.max_length - 1)
    caches = KVCache.zeros(decoder, sizes, 1, time + 1, CACHE_TYPE)
    embeds = np.random.default_rng(3).standard_normal((1, time, width), np.float32)
    given = {
        "embeds": cuda.uploaded(embeds),
        "positions": cuda.uploaded(1 + np.arange(time)[None]),
        "lengths": cuda.uploaded(np.array([time + 1])),
        **caches.past,
    }
    hidden = cuda.zeros((1, time, width), "float32")
    work = decoder.prepare_enqueue(given, {"hidden": hidden, **caches.present})
    us = float(np.median(times(cuda, cuda.capture(work)))) * 1e3
    own, shared = (count * shape.head_dim for count in (shape.heads, shape.heads // shape.shared))
    weights = width * (2 * own + 2 * shared + 3 * shape.inner)
    attention = 2 * own * (time + 1) / 2  # each sees half of them on average
    flop = 2 * time * (weights + attention) * sizes.num_layers
    return {"positions": time, "us": round(us, 3), "tflop_s": round(flop / us / 1e6, 3)}


def _codes(
    gpu: Gpu, decoder: CudaDecoder, head: CudaHead, sizes: CodeSizes, slots: int
) -> dict[str, Any]:
    """Draw the codes of an image three times, and return the times of the last one."""
    rng = np.random.default_rng(2)
    table = rng.standard_normal((sizes.codebook_size, sizes.hidden_size), np.float32)
    loop = DeviceCodes(gpu, decoder, head, sizes, CACHE_TYPE, slots, table, ROWS, 1)
    prompt = rng.standard_normal((ROWS, PROMPT, sizes.hidden_size), np.float32)
    settings = Settings(temperature=1.0, guidance_scale=5.0)
    for seed in range(3):
        clock = DeviceClock()
        lengths = np.full(ROWS, PROMPT)
        drawn = list(loop.draw(prompt, lengths, np.array([seed]), settings, clock))
    return {
        "codes": len(drawn),
        "total_ms": round(clock.ends_ms[-1], 3),
        "step_ms": round(float(np.median(np.diff(clock.ends_ms))), 4),
    }


if __name__ == "__main__":
    main()
