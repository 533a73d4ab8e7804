"""The kernels of a decode step beside PyTorch with the weights in float16, two rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from janus_edge.bench.programs.kernels.case import Case
from janus_edge.kernels import attend, combine, down, gate_up, head, qkv
from janus_edge.kernels.quantized import INT4, INT8, Packing, pack, weights
from janus_edge.kernels.specs import CHUNK, PARTS, Shape

ROWS, SLOTS, FILLED = 2, 1024, 600
SHAPE = Shape()


def cases(device: str) -> Iterator[Case]:
    """Yield each kernel at Janus-Pro-1B's sizes."""
    yield from (case(device) for case in (_attend, _qkv, _combine, _gate_up, _down, _head))


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


def _stream(device: str) -> tuple[Tensor, ...]:
    """Return a stream, its parts, a norm's weights, and room for the sum."""
    width = SHAPE.width
    parts, norm = _random(device, PARTS, ROWS, width), _random(device, width)
    return _random(device, ROWS, width), parts, norm, _random(device, ROWS, width)


def _qkv(device: str) -> Case:
    outputs = (SHAPE.heads + 2 * SHAPE.heads // SHAPE.shared) * SHAPE.head_dim
    stream, parts, norm, kept = _stream(device)
    words, scales, exact = _matrix(device, outputs, SHAPE.width)
    result = _random(device, 1, ROWS, outputs)
    return _case(
        "qkv",
        lambda: qkv.qkv(stream, parts, norm, words, scales, kept, result, 1e-6),
        lambda: qkv.normed(stream + parts.sum(0), norm, 1e-6).half() @ exact.T,
        words,
        scales,
    )


def _attend(device: str) -> Case:
    shared, size = SHAPE.heads // SHAPE.shared, SHAPE.head_dim
    parts = _random(device, 1, ROWS, (SHAPE.heads + 2 * shared) * size)
    cosines, sines = (_random(device, SLOTS, size // 2) for _ in range(2))
    keys, values = (_random(device, ROWS, shared, SLOTS, size).half() for _ in range(2))
    positions = torch.full((ROWS,), FILLED, device=device)
    chunks = SLOTS // CHUNK
    attended = _random(device, ROWS, SHAPE.heads, chunks, size)
    stats = _random(device, ROWS, SHAPE.heads, chunks, 2)
    query = _random(device, ROWS, SHAPE.heads, 1, size).half()

    def ours() -> None:
        attend.attend(parts, cosines, sines, keys, values, positions, attended, stats)

    def eager() -> Tensor:
        filled = keys[:, :, : FILLED + 1], values[:, :, : FILLED + 1]
        return torch.nn.functional.scaled_dot_product_attention(query, *filled)

    return _case(
        f"attend, {FILLED} of {SLOTS} slots",
        ours,
        eager,
        *(cache[:, :, :FILLED].contiguous() for cache in (keys, values)),
    )


def _combine(device: str) -> Case:
    inputs, chunks = SHAPE.heads * SHAPE.head_dim, SLOTS // CHUNK
    words, scales, exact = _matrix(device, SHAPE.width, inputs)
    attended = _random(device, ROWS, SHAPE.heads, chunks, SHAPE.head_dim)
    stats = _random(device, ROWS, SHAPE.heads, chunks, 2).abs()
    positions = torch.full((ROWS,), FILLED, device=device)
    result, vectors = _random(device, PARTS, ROWS, SHAPE.width), _random(device, ROWS, inputs)
    return _case(
        "combine",
        lambda: combine.combine(attended, stats, positions, words, scales, result, CHUNK),
        lambda: vectors.half() @ exact.T,
        words,
        scales,
    )


def _gate_up(device: str) -> Case:
    stream, parts, norm, kept = _stream(device)
    words, scales, exact = _matrix(device, 2 * SHAPE.inner, SHAPE.width)
    result = _random(device, ROWS, SHAPE.inner)

    def eager() -> Tensor:
        found = qkv.normed(stream + parts.sum(0), norm, 1e-6).half() @ exact.T
        gate, up = found.chunk(2, 1)
        return torch.nn.functional.silu(gate) * up

    return _case(
        "gate_up",
        lambda: gate_up.gate_up(stream, parts, norm, words, scales, kept, result, 1e-6),
        eager,
        words,
        scales,
    )


def _down(device: str) -> Case:
    words, scales, exact = _matrix(device, SHAPE.width, SHAPE.inner)
    inner, result = _random(device, ROWS, SHAPE.inner), _random(device, PARTS, ROWS, SHAPE.width)
    return _case(
        "down",
        lambda: down.down(inner, words, scales, result),
        lambda: inner.half() @ exact.T,
        words,
        scales,
    )


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
