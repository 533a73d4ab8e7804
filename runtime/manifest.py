"""The manifest of a bundle: what is in it, for whom, and how to call each component.

Unknown keys are refused, and so is any file name that leaves the bundle.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from janus_edge.runtime.errors import BundleError

FORMAT = 1

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tensor(_Part):
    """An input or output; a named dimension may vary, a number may not."""

    name: str
    dtype: Literal["float32", "float16", "int64", "int32", "int8", "uint8"]
    shape: tuple[Positive | str, ...]


class File(_Part):
    """A file and what it must hold."""

    file: FileName
    sha256: Sha256


class Component(_Part):
    """One graph, engine or table. ``profile`` gives (min, usual, max) of each named dimension.

    data: weights beside the graph. upcast: when half-precision weights become float32: as the file
    is opened, or slice by slice as they are used.
    """

    file: FileName
    sha256: Sha256
    data: File | None = None
    backend: Literal["onnxruntime", "table"]
    target: str
    dtype: Literal["float32"]
    weights: Literal["float32", "float16"]
    upcast: Literal["load", "use"] = "load"
    quantization: Literal["none"]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profile: dict[str, tuple[Positive, Positive, Positive]] = {}


class Sizes(_Part):
    """Sizes that the loops need; ``max_length`` is the KV cache's, in positions."""

    hidden_size: Positive
    vocab_size: Positive
    num_layers: Positive
    num_kv_heads: Positive
    head_dim: Positive
    max_length: Positive
    image_size: Positive
    num_image_tokens: Positive
    code_grid: Positive
    codebook_size: Positive

    @property
    def num_codes(self) -> int:
        """Codes a drawn picture."""
        return self.code_grid**2


class Prompt(_Part):
    """Roles and the system prompt of questions."""

    user_role: str
    assistant_role: str
    system_prompt: str


class Sampling(_Part):
    """The settings that scored best; used where a request names none."""

    guidance_scale: Annotated[float, Field(ge=0)]
    temperature: Annotated[float, Field(ge=0)]
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class Manifest(_Part):
    """The whole of manifest.json."""

    format: Literal[1]
    family: Literal["janus"]
    name: str
    created_by: str
    sizes: Sizes
    prompt: Prompt
    sampling: Sampling
    special_tokens: dict[str, str]
    tokenizer: File
    components: dict[str, Component]


# What a bundle of each family must hold.
COMPONENTS = {
    "janus": (
        "vision_encoder",
        "vision_aligner",
        "text_embed",
        "decoder",
        "text_head",
        "image_head",
        "code_embed",
        "image_decoder",
        "image_encoder",
        "preview",
    ),
}


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Validate the bytes of a manifest. Raises BundleError naming the first wrong key."""
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(step) for step in first["loc"]) or "file"
        raise BundleError(f"{where}: {key}: {first['msg']}; export the bundle again") from None
    missing = [name for name in COMPONENTS[manifest.family] if name not in manifest.components]
    if missing:
        raise BundleError(f"{where}: no component {', '.join(missing)}; export the bundle again")
    return manifest
