"""Match a folder's tensors to a model's parameters by name, shape and dtype.

Tensors in ``UNUSED`` and buffers that are computed here are ignored. If another program has
quantized the weights or added an adapter, the error says so in one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from janus_edge.model.files import MERGE, CheckpointError
from janus_edge.model.names import published_name
from janus_edge.model.published import QUANTIZED
from janus_edge.model.tensors import Shape, TensorFiles, open_tensors

# In published files and in none of our modules: SigLIP's pooling head, the tokenizer's usage count.
UNUSED = (
    "vision_model.vision_tower.attn_pool.",
    "vision_und_enc_model.vision_tower.attn_pool.",
    "gen_vision_model.quantize.codebook_used",
)
# Buffers that some versions of a program save; here they are computed.
_COMPUTED = (
    *(".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"),
    *(".position_ids", ".attention.bias", ".attention.masked_bias"),
)
# Prefixes that wrapping a model adds to every name: data parallel training, torch.compile.
_WRAPPED = ("module.", "_orig_mod.")
_STAGE = "first_stage_model."  # prefix of the autoencoder in a file of all of Stable Diffusion
# Suffixes of tensors that bitsandbytes, fp8, GPTQ and AWQ write beside the weights.
_OF_QUANTIZERS = (
    *(".absmax", ".quant_map", ".SCB", ".weight_scale", ".weight_scale_inv", ".input_scale"),
    *(".qweight", ".qzeros", ".g_idx", ".weight_format"),
)
_OF_ADAPTERS = (".lora_A.", ".lora_B.", ".base_layer.", ".lora_magnitude_vector.")
_FLOATS = frozenset(
    ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"),
)  # as safetensors and as torch call them
_MOST_NAMED = 8  # tensors in an error

VAE_PREFIX = "vae."  # of the autoencoder's parameters, which are published separately
Rename = Callable[[str], tuple[str, int | None]]  # tensor name to parameter name and part

_WHOLE = -1  # instead of a part's number, where a tensor is the whole parameter
_HEAD, _EMBED = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where each parameter of a model comes from.

    Attributes:
        files: The tensors' files.
        sources: For each parameter, the tensors that are concatenated to it, in order.
        beside: Weights of the part that is published separately, a JanusFlow's autoencoder.
        fp16: Whether values are rounded to fp16 as they are read.
    """

    files: TensorFiles
    sources: dict[str, tuple[str, ...]]
    beside: Weights | None = None
    fp16: bool = False

    def read(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters whose names start with a prefix, one at a time.

        Args:
            prefix: Start of the names; empty for all.

        Yields:
            Name and value, in the dtype of the file, or fp16 if ``fp16`` is set.

        Raises:
            CheckpointError: A file is damaged.
        """
        found: dict[str, dict[str, Tensor]] = {}
        owners: dict[str, list[str]] = {}  # several where a tensor is shared
        for name, of in self.sources.items():
            if name.startswith(prefix):
                for source in of:
                    owners.setdefault(source, []).append(name)
        for source, tensor in self.files.read(list(owners)):
            for name in owners[source]:
                found.setdefault(name, {})[source] = tensor
                if len(found[name]) == len(self.sources[name]):
                    parts = found.pop(name)
                    joined = [parts[of] for of in self.sources[name]]
                    whole_tensor = joined[0] if len(joined) == 1 else torch.cat(joined)
                    yield name, whole_tensor.half() if self.fp16 else whole_tensor
        if self.beside is not None:
            yield from self.beside.read(prefix)

    def to_half(self) -> Weights:
        """Return the same weights, rounded to fp16."""
        beside = self.beside and self.beside.to_half()
        return dataclasses.replace(self, beside=beside, fp16=True)


def find_weights(
    model: nn.Module,
    path: Path,
    *,
    tied: bool = False,
    prefix: str = "",
    rename: Rename = published_name,
    against: str = "config.json",
) -> Weights:
    """Match the tensors of a folder or a file to a model's parameters.

    Args:
        model: The model, which may be on the meta device.
        path: Folder or file of weights.
        tied: Whether a missing text head is the token embedding's table.
        prefix: Prefix of the sought parameters; empty for all but the autoencoder's.
        rename: Map from a tensor's name to the parameter's name without ``prefix``, and its part.
        against: What states the sizes, for errors.

    Returns:
        The weights, not yet read.

    Raises:
        CheckpointError: Tensors are missing, unexpected, of another shape or not floating point.
            The error names the first ones of each kind.
    """
    files = open_tensors(path)
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name.startswith(VAE_PREFIX) == (prefix == VAE_PREFIX)
    }
    _refuse_changed(files)
    parts: dict[str, dict[int, str]] = {}
    for source, bare in _bare(files.shapes).items():
        name, part = rename(bare)
        name = prefix + name
        if not name.startswith(UNUSED) and not name.endswith(_COMPUTED):
            parts.setdefault(name, {})[_WHOLE if part is None else part] = source
    if tied:  # a file holds what is shared once, under either name
        shared = parts.get(_EMBED) or parts.get(_HEAD) or {}
        parts |= {name: shared for name in (_EMBED, _HEAD) if shared and name not in parts}
    missing = [f"missing {name}" for name in sorted(set(wanted) - set(parts))]
    unexpected = [f"unexpected {source}" for name in sorted(set(parts) - set(wanted))
                  for source in parts[name].values()]  # fmt: skip
    misfits = [
        wrong
        for name in sorted(set(parts) & set(wanted))
        for wrong in _misfit(name, parts[name], files.shapes, wanted[name])
    ]
    if missing or unexpected or misfits:
        wrong = "; ".join(_some(each) for each in (missing, unexpected, misfits) if each)
        raise CheckpointError(f"{files.first}: does not fit {against}: {wrong}")
    sources = {name: tuple(parts[name][i] for i in sorted(parts[name])) for name in wanted}
    _refuse_integers(files, sources)
    return Weights(files=files, sources=sources)


def _bare(names: Iterable[str]) -> dict[str, str]:
    """Return each tensor's name without the prefixes that wrapping a model adds.

    Of a whole Stable Diffusion, only the autoencoder's tensors are returned.
    """
    bare = {name: name for name in names}
    if any(name.startswith(_STAGE) for name in bare):
        bare = {name: name.removeprefix(_STAGE) for name in bare if name.startswith(_STAGE)}
    for prefix in _WRAPPED * 2:  # either may be outside
        if bare and all(name.startswith(prefix) for name in bare.values()):
            bare = {source: name.removeprefix(prefix) for source, name in bare.items()}
    return bare


def _refuse_changed(files: TensorFiles) -> None:
    """Refuse weights that another program has quantized, and weights of a LoRA adapter."""
    for name in files.shapes:
        if name.endswith(_OF_QUANTIZERS) or ".quant_state." in name:
            raise CheckpointError(f"{files.files[name]}: has {name}: {QUANTIZED}")
        if any(part in name for part in _OF_ADAPTERS):
            raise CheckpointError(f"{files.files[name]}: has {name}, of a LoRA adapter; {MERGE}")


def _refuse_integers(files: TensorFiles, sources: dict[str, tuple[str, ...]]) -> None:
    """Refuse weights that are not floating point: quantized values whose scales are elsewhere."""
    for source in (source for of in sources.values() for source in of):
        if files.dtypes[source] not in _FLOATS:
            dtype = files.dtypes[source]
            raise CheckpointError(f"{files.files[source]}: {source} is {dtype}: {QUANTIZED}")


def _some(wrong: list[str]) -> str:
    """Return the first faults as text, and how many more there are."""
    more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
    return "; ".join(wrong[:_MOST_NAMED]) + more


def _misfit(name: str, parts: dict[int, str], shapes: dict[str, Shape], wanted: Shape) -> list[str]:
    """Return the faults of a parameter's parts: missing parts and wrong shapes."""
    if set(parts) not in ({_WHOLE}, {0, 1, 2}):
        return [f"missing parts of {name}: only {', '.join(parts.values())}"]
    whole_shape = (wanted[0] // len(parts), *wanted[1:])
    right = {whole_shape, (*whole_shape, 1, 1)}  # the latter is a former 1x1 convolution
    if wanted[0] == 1:
        right.add(whole_shape[1:])
    return [
        f"{source} is {list(shapes[source])}, not {list(whole_shape)}"
        for source in parts.values()
        if shapes[source] not in right
    ]
