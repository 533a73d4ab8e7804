"""The manifest of a bundle: its files, its sizes, and how to call each component.

Refused are unknown keys, keys that are there twice, values of another type, and file names that
leave the bundle. native/core/manifest.cpp reads and refuses the same.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from janus_edge.runtime import limits
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.json_text import parse_json
from janus_edge.runtime.kv_cache import PAST
from janus_edge.runtime.sizes import CodeSizes, FlowSizes, ManifestPart

FORMAT = 3

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1, le=limits.MOST_DIMENSION)]
# A word may be shown on a terminal: it has no control characters.
Word = Annotated[
    str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", min_length=1, max_length=limits.MOST_WORD)
]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,255}$")]
Role = Annotated[str, Field(max_length=limits.MOST_ROLE)]


class Tensor(ManifestPart):
    """An input or output. A dimension is a name if it may vary, else a number."""

    name: Identifier
    dtype: Literal["float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8"]
    shape: Annotated[tuple[Positive | Identifier, ...], Field(max_length=limits.MOST_AXES)]


class File(ManifestPart):
    """A file and the hash of its content."""

    file: FileName
    sha256: Sha256


class Stored(ManifestPart):
    """A weight in a component's ``data``, ``offset`` bytes from the start.

    float32 is row-major; tiles lie as runtime/tiles.py says, and their shape is (outputs, inputs).
    Tiles that are not ``in_graph`` are for the CPU kernels alone.
    """

    dtype: Literal["float32", "int4_tiles", "int8_tiles", "int8_tiles_128"]
    shape: Annotated[tuple[Positive, ...], Field(max_length=limits.MOST_AXES)]
    offset: Annotated[int, Field(ge=0, le=limits.MOST_OFFSET)]
    in_graph: bool = True


class Builder(ManifestPart):
    """The Python module that built an engine and must open it, with its version."""

    module: Literal["tensorrt_rtx", "tensorrt"]
    version: Word


Constant = Annotated[float, Field(ge=0, le=2**31)]
Ranges = dict[Identifier, tuple[Positive, Positive, Positive]]


class Component(ManifestPart):
    """A graph, a TensorRT engine file or a table (docs/bundle.md).

    Attributes:
        data: Weights beside the graph.
        upcast: When fp16 weights become float32: as the file is opened, or slice by slice at use.
        quantization: How many weights share a scale.
        profile: (min, usual, max) of each named dimension.
        profiles: The same for each optimization profile of an engine, in order.
        tensors: The weights in ``data``, for a backend that needs no graph.
        constants: Numbers that such a backend needs, for example how many heads there are.
    """

    file: FileName
    sha256: Sha256
    data: File | None = None
    backend: Literal["onnxruntime", "tensorrt", "table"]
    target: Word
    dtype: Literal["float32", "float16", "bfloat16"]
    weights: Literal["float32", "float16", "int8", "int4"]
    upcast: Literal["load", "use"] = "load"
    quantization: Annotated[str, Field(pattern=r"^(none|per-channel|blocks of (32|64|128))$")]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profile: Ranges = Field(default_factory=dict)
    profiles: dict[Identifier, Ranges] = Field(default_factory=dict)
    builder: Builder | None = None
    tensors: dict[Identifier, Stored] = Field(default_factory=dict)
    constants: dict[Identifier, Constant] = Field(default_factory=dict)


class Kernel(ManifestPart):
    """A GPU kernel compiled for a compute capability (docs/kernels.md).

    ``arguments`` are the arguments' types in order, as Triton names them.
    """

    name: Identifier
    target: Annotated[str, Field(pattern=r"^sm_[0-9]{2,3}$")]
    file: FileName
    sha256: Sha256
    symbol: Identifier
    threads: Annotated[int, Field(ge=1, le=1024)]
    shared_bytes: Annotated[int, Field(ge=0, le=limits.MIB)]
    arguments: tuple[Word, ...]
    constants: dict[Identifier, Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | bool]


class Prompt(ManifestPart):
    """Roles, and the system prompt of questions."""

    user_role: Role
    assistant_role: Role
    system_prompt: Annotated[str, Field(max_length=limits.MOST_PROMPT)]


# The same ranges as a request's (runtime/requests.py).
Scale = Annotated[float, Field(ge=0, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class CodeSampling(ManifestPart):
    """How codes are chosen if a request does not say: the settings that scored best."""

    guidance_scale: Scale
    temperature: Scale
    top_k: Annotated[int, Field(ge=0, le=2**31)] = 0
    top_p: Annotated[float, Field(ge=1e-6, le=1)] = 1.0


class FlowSampling(ManifestPart):
    """How a latent is drawn if a request does not say (docs/sampling.md)."""

    guidance_scale: Scale
    num_steps: Annotated[int, Field(ge=1, le=10000)]
    solver: Literal["euler", "ab2", "heun"]
    shift: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    guidance_start: Fraction = 0.0
    guidance_end: Fraction = 1.0


class _Manifest(ManifestPart):
    """What manifest.json holds for every family."""

    format: Literal[3]
    name: Word
    created_by: Word
    source: Word | None = None  # the checkpoint that it was made from, if it has a public name
    prompt: Prompt
    tokenizer: File
    tokenizer_bin: File | None = None  # the same for the C++ code; older bundles have none
    components: dict[str, Component]
    kernels: tuple[Kernel, ...] = ()

    @property
    def _caches(self) -> list[Tensor]:
        """The decoder's inputs for keys and values, (rows, heads, slots, numbers)."""
        inputs = self.components["decoder"].inputs
        return [given for given in inputs if given.name.startswith(PAST)]

    @property
    def has_caches(self) -> bool:
        """True if the decoder keeps keys and values, as every decoder must."""
        return bool(self._caches) and all(len(given.shape) == 4 for given in self._caches)

    @property
    def cache_type(self) -> str:
        """Dtype of the decoder's KV caches."""
        return self._caches[0].dtype

    @property
    def cache_slots(self) -> int | None:
        """How many positions the decoder's KV caches must have; None if any number is possible."""
        slots = self._caches[0].shape[2]
        return slots if isinstance(slots, int) else None


class JanusManifest(_Manifest):
    """The manifest of a Janus or Janus-Pro."""

    family: Literal["janus"]
    sizes: CodeSizes
    sampling: CodeSampling


class FlowManifest(_Manifest):
    """The manifest of a JanusFlow."""

    family: Literal["janusflow"]
    sizes: FlowSizes
    sampling: FlowSampling


Manifest = JanusManifest | FlowManifest
_SCHEMA: TypeAdapter[Manifest] = TypeAdapter(Annotated[Manifest, Field(discriminator="family")])

# The papers' settings, for a request with ``reference``.
REFERENCE: dict[str, CodeSampling | FlowSampling] = {
    "janus": CodeSampling(guidance_scale=5.0, temperature=1.0),
    "janusflow": FlowSampling(guidance_scale=2.0, num_steps=30, solver="euler"),
}

# For checkpoints without settings. The flow's were chosen on the JanusFlow that was trained here
# (docs/flow.md): 18 rows of the network instead of 60.
DEFAULTS: dict[str, CodeSampling | FlowSampling] = REFERENCE | {
    "janusflow": FlowSampling(guidance_scale=2.0, num_steps=12, solver="ab2", guidance_end=0.5),
}

PREFILL = "decoder_prefill"  # optional: a copy of the decoder for many positions at once
PREVIEW_DECODER = "preview_decoder"  # optional: sharp previews (docs/draw.md, "Previews")

_SHARED = ("vision_encoder", "vision_aligner", "text_embed", "decoder", "text_head")
# What a bundle of each family must hold.
COMPONENTS = {
    "janus": (
        *_SHARED,
        "image_head",
        "code_embed",
        "image_decoder",
        "preview",
    ),
    "janusflow": (*_SHARED, "flow_encoder", "flow_decoder", "image_decoder", "preview"),
}
# What it may hold besides.
OPTIONAL = {
    "janus": (PREFILL, PREVIEW_DECODER, "image_encoder"),
    "janusflow": (PREFILL, PREVIEW_DECODER),
}


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Return the manifest in ``raw``; ``where`` is its path, for the error.

    Raises:
        BundleError: A key is wrong or missing. Names the first one.
    """
    try:
        found = parse_json(raw)  # pydantic's reader takes twins
        _check_format(found, where)
        manifest = _SCHEMA.validate_json(raw, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(_shown(step) for step in first["loc"]) or "file"
        raise BundleError(f"{where}: {key}: {first['msg']}; export the bundle again") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{where}: is no JSON: {reason}; export the bundle again") from None
    missing = [name for name in COMPONENTS[manifest.family] if name not in manifest.components]
    if missing:
        raise BundleError(f"{where}: no component {', '.join(missing)}; export the bundle again")
    if not manifest.has_caches:
        raise BundleError(
            f"{where}: components.decoder.inputs have no cache; export the bundle again"
        )
    return manifest


def _check_format(found: object, where: str) -> None:
    """Raise BundleError for the manifest of another version, with what to do."""
    number = found.get("format") if isinstance(found, dict) else None
    if type(number) is not int or not 0 <= number < 2**31 or number == FORMAT:
        return
    older = "run: janus-edge export CHECKPOINT BUNDLE --replace"
    raise BundleError(
        f"{where}: format {number}, but this version reads format {FORMAT}; "
        f"{older if number < FORMAT else 'update janus-edge'}"
    )


def _shown(step: int | str) -> str:
    """Return a key in a form that a message may contain, whoever wrote it."""
    text = str(step)[:80]
    return text if text.isprintable() else ascii(text)
