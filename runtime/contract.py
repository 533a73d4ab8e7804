"""Compare what the loops need of a bundle with its manifest when the bundle is opened.

The manifest's sizes must fit together, and each component's inputs and outputs must be what the
loops bind. That a graph really has them is checked when its engine opens.
native/core/contract.cpp compares the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from janus_edge.runtime import limits
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.kv_cache import past_names, present_names
from janus_edge.runtime.manifest import (
    COMPONENTS,
    OPTIONAL,
    PREFILL,
    PREVIEW_DECODER,
    Component,
    Manifest,
    Tensor,
)
from janus_edge.runtime.sizes import CodeSizes, FlowSizes

# A dimension is a size, a capital letter if it varies, or "?name" for a size that only the
# components know; it is the same wherever it has this name.
Shape = tuple[int | str, ...]
End = tuple[str, str, Shape]  # name, dtype, shape
Ends = tuple[list[End], list[End]]  # inputs and outputs

_CACHE_TYPES = {
    "onnxruntime": ("float32", "float16", "int8"),
    "tensorrt": ("float32", "float16", "bfloat16"),
}


def table_shapes(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Return rows and columns of each look-up table."""
    sizes = manifest.sizes
    text = {"text_embed": (sizes.vocab_size, sizes.hidden_size)}
    if isinstance(sizes, CodeSizes):
        codes = sizes.codebook_size
        return text | {"code_embed": (codes, sizes.hidden_size), "preview": (codes, 3)}
    return text | {"preview": (sizes.latent_channels + 1, 3)}


def check_contract(manifest: Manifest, where: str) -> None:
    """Raise BundleError naming the first thing that does not fit.

    Args:
        manifest: The manifest.
        where: Its path, for the error.
    """
    for problem in _problems(manifest):
        raise BundleError(f"{where}: {problem}; export the bundle again")


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield what does not fit, most basic things first."""
    yield from _sizes(manifest)
    known = (*COMPONENTS[manifest.family], *OPTIONAL[manifest.family])
    decoder = manifest.components["decoder"]
    tables, compare = table_shapes(manifest), _Comparison()
    for name, part in manifest.components.items():
        at = f"components.{name}"
        if name not in known:
            yield f"{at} is not known here"
        expected = "table" if name in tables else decoder.backend
        if part.backend != expected or (part.backend == "table") != (name in tables):
            yield f"{at}.backend is {part.backend}; tables are tables, all else is of one kind"
        if part.tensors and part.data is None:
            yield f"{at}.tensors are of no data"
        if name in tables and part.weights not in ("float32", "float16"):
            yield f"{at}.weights are {part.weights}; a table's are float32 or float16"
        wanted = _ends(name, manifest)
        yield from compare(f"{at}.inputs", part.inputs, wanted[0])
        yield from compare(f"{at}.outputs", part.outputs, wanted[1])
        if name in ("decoder", PREFILL):
            yield from _profile(part, f"{at}.profile", manifest)


def _sizes(manifest: Manifest) -> Iterator[str]:
    sizes = manifest.sizes
    numbers = sizes.num_layers * sizes.num_kv_heads * sizes.head_dim * sizes.max_length
    if numbers > limits.MOST_CACHED:
        yield f"sizes are too large: keys and values of {numbers} numbers"
    cells = sizes.code_grid if isinstance(sizes, CodeSizes) else sizes.latent_size
    if sizes.image_size % cells:
        yield f"sizes do not fit together: image_size {sizes.image_size}, {cells} cells along it"
    if isinstance(sizes, FlowSizes) and sizes.latent_size % sizes.latent_grid:
        yield f"sizes do not fit together: latent_size {sizes.latent_size} and latent_grid"
    if sizes.num_drawn >= sizes.max_length:
        yield f"sizes.max_length {sizes.max_length} has no room for an image's {sizes.num_drawn}"


def _profile(part: Component, at: str, manifest: Manifest) -> Iterator[str]:
    most = {"R": limits.MOST_ROWS, "T": manifest.sizes.max_length, "M": manifest.sizes.max_length}
    for name, limit in most.items():
        if name not in part.profile:
            yield f"{at} has no {name}"
        elif not part.profile[name][2] <= limit:
            yield f"{at}.{name} goes to {part.profile[name][2]}, more than {limit}"
    if part.profile["M"][2] != manifest.sizes.max_length:
        yield f"{at}.M is not for max_length {manifest.sizes.max_length}"


def _ends(name: str, manifest: Manifest) -> Ends:
    """Return the inputs and outputs that a component must have."""
    sizes = manifest.sizes
    width, side, seen = sizes.hidden_size, sizes.image_size, sizes.num_image_tokens
    pixels: End = ("pixels", "float32", ("B", 3, side, side))
    features: End = ("features", "float32", ("B", seen, "?features"))
    hidden: End = ("hidden", "float32", ("R", width))
    table: list[End] = [("index", "int64", ("R",))]
    shared: dict[str, Ends] = {
        "vision_encoder": ([pixels], [features]),
        "vision_aligner": ([features], [("embeds", "float32", ("B", seen, width))]),
        "text_head": ([hidden], [("logits", "float32", ("R", sizes.vocab_size))]),
        **{
            each: (table, [("row", "float32", ("R", columns))])
            for each, (_, columns) in table_shapes(manifest).items()
        },
        **dict.fromkeys(("decoder", PREFILL), _decoder(manifest)),
    }
    own = _of_codes(sizes) if isinstance(sizes, CodeSizes) else _of_flow(sizes)
    return (shared | own).get(name, ([], []))


def _decoder(manifest: Manifest) -> Ends:
    """Return the inputs and outputs of the decoder and of its copy for prefill."""
    sizes = manifest.sizes
    slots = manifest.sizes.max_length if manifest.cache_slots else "M"
    shape: Shape = ("R", sizes.num_kv_heads, slots, sizes.head_dim)
    kinds = _CACHE_TYPES.get(manifest.components["decoder"].backend, ())
    kind = manifest.cache_type if manifest.cache_type in kinds else " or ".join(kinds)
    width: Shape = ("R", "T", sizes.hidden_size)
    given: list[End] = [
        ("embeds", "float32", width),
        ("positions", "int64", ("R", "T")),
        ("lengths", "int64", ("R",)),
    ]
    return (
        [*given, *((name, kind, shape) for name in past_names(sizes.num_layers))],
        [
            ("hidden", "float32", width),
            *((name, kind, shape) for name in present_names(sizes.num_layers)),
        ],
    )


def _of_codes(sizes: CodeSizes) -> dict[str, Ends]:
    """Return those of the components that only a code model has."""
    pixels: End = ("pixels", "float32", ("B", 3, sizes.image_size, sizes.image_size))
    codes: End = ("codes", "int64", ("B", sizes.num_codes))
    hidden: End = ("hidden", "float32", ("R", sizes.hidden_size))
    return {
        "image_head": ([hidden], [("logits", "float32", ("R", sizes.codebook_size))]),
        **dict.fromkeys(("image_decoder", PREVIEW_DECODER), ([codes], [pixels])),
        "image_encoder": ([pixels], [codes]),
    }


def _of_flow(sizes: FlowSizes) -> dict[str, Ends]:
    """Return those of the components that only a flow model has."""
    pixels: End = ("pixels", "float32", ("B", 3, sizes.image_size, sizes.image_size))
    tokens: Shape = ("B", sizes.num_latent_tokens, sizes.hidden_size)
    latent: Shape = ("B", *sizes.latent_shape)
    time: End = ("time", "float32", ("B", sizes.hidden_size))
    skip: End = ("skip", "float32", ("B", "?skip", sizes.latent_grid, sizes.latent_grid))
    return {
        "flow_encoder": (
            [("latent", "float32", latent), ("t", "float32", ("B",))],
            [("tokens", "float32", tokens), time, skip],
        ),
        "flow_decoder": (
            [("hidden", "float32", tokens), skip, time],
            [("velocity", "float32", latent)],
        ),
        **dict.fromkeys(
            ("image_decoder", PREVIEW_DECODER), ([("latent", "float32", latent)], [pixels])
        ),
    }


@dataclass
class _Comparison:
    """Compares lists of inputs or outputs; remembers the sizes that only the components know."""

    sizes: dict[str, int] = field(default_factory=dict)

    def __call__(self, at: str, found: tuple[Tensor, ...], wanted: list[End]) -> Iterator[str]:
        """Yield how the inputs or outputs that were found differ from the wanted ones."""
        names = [each.name for each in found], [name for name, *_ in wanted]
        if names[0] != names[1]:
            count = sum(a == b for a, b in zip(*names, strict=False))
            yield f"{at} are not the {len(wanted)} that are needed: {count} of {len(found)} are"
            return
        for tensor, (name, dtype, shape) in zip(found, wanted, strict=True):
            fits = len(tensor.shape) == len(shape) and all(map(self._fits, tensor.shape, shape))
            if tensor.dtype != dtype or not fits:
                shown = ",".join(map(str, tensor.shape))
                needed = ",".join(map(str, shape))
                yield f"{at}.{name} is {tensor.dtype}[{shown}], not {dtype}[{needed}]"

    def _fits(self, found: int | str, wanted: int | str) -> bool:
        if isinstance(wanted, str) and wanted.startswith("?"):
            return isinstance(found, int) and self.sizes.setdefault(wanted, found) == found
        return isinstance(found, str) if isinstance(wanted, str) else found == wanted
