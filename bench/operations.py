"""How many operations the parts of a bundle need that wait for arithmetic, not for memory.

Two operations for each product of a matmul, a convolution or attention. Only parts that the CPU
kernels run list what is needed to count.
"""

from __future__ import annotations

from janus_edge.runtime.backends import backend_of
from janus_edge.runtime.devices import Device
from janus_edge.runtime.manifest import Component, Manifest
from janus_edge.runtime.sizes import CodeSizes, FlowSizes

_TILES = ".weight.tiles"


def component_operations(manifest: Manifest) -> dict[str, float]:
    """Return the operations of components for one image, of those that the CPU kernels run."""
    sizes = manifest.sizes
    assert isinstance(sizes, CodeSizes | FlowSizes)
    found: dict[str, float] = {}
    if _is_ours(manifest, "vision_encoder"):
        encoder, seen = manifest.components["vision_encoder"], sizes.num_image_tokens
        width, blocks = int(encoder.outputs[0].shape[-1]), _layers(encoder, ".attn.qkv")
        found["vision_encoder"] = 2 * seen * _weights(encoder) + 4 * blocks * seen**2 * width
    if _is_ours(manifest, "vision_aligner"):
        aligner = manifest.components["vision_aligner"]
        found["vision_aligner"] = 2 * sizes.num_image_tokens * _weights(aligner)
    if _is_ours(manifest, "image_decoder"):
        side = sizes.code_grid if isinstance(sizes, CodeSizes) else sizes.latent_size
        found["image_decoder"] = _convolutions(manifest.components["image_decoder"], side)
    return found


def prompt_operations(manifest: Manifest, positions: int) -> float | None:
    """Return the operations of a row's prompt in the decoder, None if it is not ours.

    The last layer attends and goes on with the last position alone.
    """
    whole = _decoder_operations(manifest, positions, 0)
    if whole is None:
        return None
    last = f"layers.{manifest.sizes.num_layers - 1}."
    parts = ("o_proj", "gate_proj", "up_proj", "down_proj")
    shapes = [_decoder_shape(manifest, f"{last}{part}") for part in parts]
    products = 2 * (positions - 1) * sum(outputs * inputs for outputs, inputs in shapes)
    attention = 4 * (positions**2 / 2 - positions) * _decoder_shape(manifest, f"{last}q_proj")[0]
    return whole - products - attention


def _decoder_operations(manifest: Manifest, positions: int, known: int) -> float | None:
    """Return the operations of new positions after known ones, None if the decoder is not ours."""
    if not _is_ours(manifest, "decoder"):
        return None
    queries = _decoder_shape(manifest, "layers.0.q_proj")[0]
    seen = positions * known + positions**2 / 2
    weights = _weights(manifest.components["decoder"])
    return 2 * positions * weights + 4 * manifest.sizes.num_layers * seen * queries


def _decoder_shape(manifest: Manifest, name: str) -> tuple[int, ...]:
    return manifest.components["decoder"].tensors[f"{name}{_TILES}"].shape


def velocity_operations(manifest: Manifest, prompt: int) -> float | None:
    """Return the operations of the decoder for a row's velocity; None if it is not ours.

    Args:
        manifest: The bundle's.
        prompt: Positions of the prompt.
    """
    sizes = manifest.sizes
    assert isinstance(sizes, FlowSizes)
    return _decoder_operations(manifest, sizes.num_latent_tokens + 1, prompt)


def _is_ours(manifest: Manifest, name: str) -> bool:
    return backend_of(manifest, name, Device()) == "cpu_kernels"


def _weights(component: Component) -> float:
    tiles = [each.shape for key, each in component.tensors.items() if key.endswith(_TILES)]
    return float(sum(outputs * inputs for outputs, inputs in tiles))


def _layers(component: Component, part: str) -> int:
    return sum(key.endswith(part + _TILES) for key in component.tensors)


def _convolutions(component: Component, side: int) -> float:
    """Return the operations of an image decoder with so many cells along a side.

    Each matrix counts for the pixels it is used for. A step that doubles height and width has four
    matrices, each for a quarter of its pixels.
    """
    matrices = {
        key.removesuffix(_TILES): float(each.shape[0] * each.shape[1])
        for key, each in component.tensors.items()
        if key.endswith(_TILES)
    }
    total = 2 * side**2 * matrices.pop("first")
    last = matrices.pop("last")
    for number in sorted({int(name.split(".")[1]) for name in matrices}):
        step, before = f"steps.{number}.", side
        if f"{step}double.even_even" in matrices:
            side *= 2
        if f"{step}q" in matrices:
            channels = component.tensors[f"{step}q{_TILES}"].shape[0]
            total += 4 * side**4 * channels
        total += 2 * before**2 * sum(n for name, n in matrices.items() if name.startswith(step))
    return total + 2 * side**2 * last
