"""The kernels of a decode step beside PyTorch with the weights in float16, two rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from janus_edge.bench.programs.kernels.case import Case
from janus_edge.kernels import attend, gate_up, head, merge, norm, product
from janus_edge.kernels.decoder_specs import CHUNK, PARTS
from janus_edge.kernels.quantized import INT4, INT8, Packing, pack, weights
from janus_edge.kernels.spec import Shape

ROWS, SLOTS, FILLED = 2, 1024, 600
SHAPE = Shape()


def cases(device: str) -> Iterator[Case]:
    """Yield each kernel at Janus-Pro-1B's sizes."""
    yield from (
        case(device) for case in (_norm, _qkv, _attend, _merge, _output, _gate_up, _down, _head)
    )


def _random(device: str, *shape: int) -> Tensor:
    return torch.randn(shape, device=device)


def _matrix(device: str, outputs: int, inputs: int, packing: Packing = INT4) -> tuple[Tensor, ...]:
    """Return words, scales, and the same weights in float16."""
    values = torch.randint(0, 1 << packing.bits, (outputs, inputs), device=device)
    words = pack(values, packing)
    scales = torch.rand(outputs, inputs // packing.block, device=device) * 0.02
    return words, scales, weights(words, scales, packing).half()


def _case(
    name: str, ours: Callable[[], object], eager: Callable[[], object], *read: Tensor
) -> Case:
    return Case(
        shape=f"{name}, {ROWS} rows",
        ours=ours,
        eager=eager,
        num_bytes=sum(each.nbytes for each in read),
    )


def _norm(device: str) -> Case:
    width = SHAPE.width
    parts, weights = _random(device, PARTS, ROWS, width), _random(device, width)
    stream, kept = _random(device, ROWS, width), _random(device, ROWS, width)
    made = torch.empty_like(stream, dtype=torch.float16)

    def eager() -> Tensor:
        found = torch.nn.functional.rms_norm(stream + parts.sum(0), (width,), weights, 1e-6)
        return found.half()

    ours = partial(norm.norm, stream, parts, weights, kept, made, 1e-6)
    return _case("norm", ours, eager, stream, parts, weights)


def _product(device: str, name: str, outputs: int, inputs: int, parts: int) -> Case:
    words, scales, exact = _matrix(device, outputs, inputs)
    given, result = _random(device, ROWS, inputs).half(), _random(device, parts, ROWS, outputs)
    ours = partial(product.product, given, words, scales, result)
    return _case(name, ours, lambda: given @ exact.T, words, scales)


def _qkv(device: str) -> Case:
    outputs = (SHAPE.heads + 2 * SHAPE.heads // SHAPE.shared) * SHAPE.head_dim
    return _product(device, "qkv", outputs, SHAPE.width, 1)


def _output(device: str) -> Case:
    return _product(device, "output", SHAPE.width, SHAPE.heads * SHAPE.head_dim, PARTS)


def _attend(device: str) -> Case:
    shared, size = SHAPE.heads // SHAPE.shared, SHAPE.head_dim
    outputs = _random(device, ROWS, (SHAPE.heads + 2 * shared) * size)
    cosines, sines = (_random(device, SLOTS, size // 2) for _ in range(2))
    keys, values = (_random(device, ROWS, shared, SLOTS, size).half() for _ in range(2))
    positions = torch.full((ROWS,), FILLED, device=device)
    places = positions, positions + 1
    chunks = SLOTS // CHUNK
    attended = _random(device, ROWS, SHAPE.heads, chunks, size)
    stats = _random(device, ROWS, SHAPE.heads, chunks, 2)
    query = _random(device, ROWS, SHAPE.heads, 1, size).half()

    def ours() -> None:
        attend.attend(outputs, cosines, sines, keys, values, *places, attended, stats)

    def eager() -> Tensor:
        filled = keys[:, :, : FILLED + 1], values[:, :, : FILLED + 1]
        return torch.nn.functional.scaled_dot_product_attention(query, *filled)

    return _case(
        f"attend, {FILLED} of {SLOTS} slots",
        ours,
        eager,
        *(cache[:, :, :FILLED].contiguous() for cache in (keys, values)),
    )


def _merge(device: str) -> Case:
    chunks = SLOTS // CHUNK
    attended = _random(device, ROWS, SHAPE.heads, chunks, SHAPE.head_dim)
    stats = _random(device, ROWS, SHAPE.heads, chunks, 2).abs()
    positions = torch.full((ROWS,), FILLED, device=device)
    made = _random(device, ROWS, SHAPE.heads * SHAPE.head_dim).half()

    def eager() -> Tensor:
        share = (stats[..., 0] - stats[..., 0].max(2, keepdim=True)[0]).exp()
        total = (share * stats[..., 1]).sum(2, keepdim=True)
        return ((share[..., None] * attended).sum(2) / total).half()

    ours = partial(merge.merge, attended, stats, positions, positions + 1, made, CHUNK)
    return _case("merge", ours, eager, attended, stats)


def _gate_up(device: str) -> Case:
    words, scales, exact = _matrix(device, 2 * SHAPE.inner, SHAPE.width)
    inputs, result = _random(device, ROWS, SHAPE.width).half(), _random(device, ROWS, SHAPE.inner)

    def eager() -> Tensor:
        gate, up = (inputs @ exact.T).chunk(2, 1)
        return torch.nn.functional.silu(gate) * up

    ours = partial(gate_up.gate_up, inputs, words, scales, result)
    return _case("gate_up", ours, eager, words, scales)


def _down(device: str) -> Case:
    words, scales, exact = _matrix(device, SHAPE.width, SHAPE.inner)
    inner, result = _random(device, ROWS, SHAPE.inner), _random(device, PARTS, ROWS, SHAPE.width)
    ours = partial(product.product, inner, words, scales, result)
    return _case("down", ours, lambda: inner.half() @ exact.T, words, scales)


def _head(device: str) -> Case:
    words, scales, exact = _matrix(device, SHAPE.num_codes, SHAPE.head_hidden, INT8)
    hidden, bias = _random(device, ROWS, SHAPE.head_hidden), _random(device, SHAPE.num_codes)
    logits = _random(device, ROWS, SHAPE.num_codes)
    return _case(
        "head_logits",
        lambda: head.head(hidden, words, scales, bias, logits),
        lambda: hidden.half() @ exact.T + bias,
        words,
        scales,
    )
