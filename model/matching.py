"""A folder's tensors matched to a model's parameters: by name, shape and kind of number.

What a folder holds that no model needs is passed over; what other programs have done to the
weights (quantization, an adapter) is said in one line.
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
# Buffers that some versions of a program save and that are computed here.
_COMPUTED = (
    *(".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"),
    *(".position_ids", ".attention.bias", ".attention.masked_bias"),
)
# What wrapping a model puts before every name: data parallel training, torch.compile.
_WRAPPED = ("module.", "_orig_mod.")
_STAGE = "first_stage_model."  # the autoencoder in a file of a whole Stable Diffusion
# Names beside the weights that bitsandbytes, fp8, GPTQ and AWQ write.
_OF_QUANTIZERS = (
    *(".absmax", ".quant_map", ".SCB", ".weight_scale", ".weight_scale_inv", ".input_scale"),
    *(".qweight", ".qzeros", ".g_idx", ".weight_format"),
)
_OF_ADAPTERS = (".lora_A.", ".lora_B.", ".base_layer.", ".lora_magnitude_vector.")
_FLOATS = frozenset(
    ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"),
)  # as safetensors and as torch call them
_MOST_NAMED = 8  # tensors in an error

VAE_PREFIX = "vae."  # of the parameters of the part that is published apart
Rename = Callable[[str], tuple[str, int | None]]  # a tensor's name: the parameter's, and which part

_WHOLE = -1  # in place of a part's number
_HEAD, _EMBED = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where each parameter of a model comes from: the tensors that make it up, in order.

    beside: those of the part that is published apart. halves: whether values are rounded to half
    precision as they are read.
    """

    files: TensorFiles
    sources: dict[str, tuple[str, ...]]
    beside: Weights | None = None
    fp16: bool = False

    def read(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Parameters whose names start with a prefix, one at a time, as stored."""
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
        """The same, rounded to half precision."""
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
    """Match a folder's (or file's) tensors to a model's parameters.

    tied: where there is no text head, it is the token table. prefix: of the parameters that are
    sought, all but the autoencoder's if it is empty. rename: the files' names to ours without the
    prefix. against: what says the sizes, for errors. Raises CheckpointError naming tensors that are
    missing, unexpected, of another shape or no plain numbers, the first of each.
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
    if tied and _HEAD not in parts and _EMBED in parts:
        parts[_HEAD] = parts[_EMBED]
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
    """Each tensor's name without what wraps all of them; of a whole Stable Diffusion, the
    autoencoder's alone."""
    bare = {name: name for name in names}
    if any(name.startswith(_STAGE) for name in bare):
        bare = {name: name.removeprefix(_STAGE) for name in bare if name.startswith(_STAGE)}
    for prefix in _WRAPPED * 2:  # either may be outside
        if bare and all(name.startswith(prefix) for name in bare.values()):
            bare = {source: name.removeprefix(prefix) for source, name in bare.items()}
    return bare


def _refuse_changed(files: TensorFiles) -> None:
    """Refuse weights that another program has quantized, or that an adapter stands in."""
    for name in files.shapes:
        if name.endswith(_OF_QUANTIZERS) or ".quant_state." in name:
            raise CheckpointError(f"{files.files[name]}: has {name}: {QUANTIZED}")
        if any(part in name for part in _OF_ADAPTERS):
            raise CheckpointError(f"{files.files[name]}: has {name}, of a LoRA adapter; {MERGE}")


def _refuse_integers(files: TensorFiles, sources: dict[str, tuple[str, ...]]) -> None:
    """Refuse weights that are no plain floating-point numbers: levels whose scales are not here."""
    for source in (source for of in sources.values() for source in of):
        if files.dtypes[source] not in _FLOATS:
            dtype = files.dtypes[source]
            raise CheckpointError(f"{files.files[source]}: {source} is {dtype}: {QUANTIZED}")


def _some(wrong: list[str]) -> str:
    """The first of many faults, and how many more there are."""
    more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
    return "; ".join(wrong[:_MOST_NAMED]) + more


def _misfit(name: str, parts: dict[int, str], shapes: dict[str, Shape], wanted: Shape) -> list[str]:
    """What is wrong with a parameter's parts."""
    if set(parts) not in ({_WHOLE}, {0, 1, 2}):
        return [f"missing parts of {name}: only {', '.join(parts.values())}"]
    whole_shape = (wanted[0] // len(parts), *wanted[1:])
    right = {whole_shape, (*whole_shape, 1, 1)}  # the latter: a layer once a 1x1 convolution
    if wanted[0] == 1:
        right.add(whole_shape[1:])
    return [
        f"{source} is {list(shapes[source])}, not {list(whole_shape)}"
        for source in parts.values()
        if shapes[source] not in right
    ]
