"""Sizes of a Janus model: frozen, validated, read from and written to plain JSON dictionaries."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from janus_edge.model.numbers import check_colours, check_numbers, shown, with_tuples


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Sizes of the Llama-type language model.

    Source: the published config.json, ``language_config``.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 16384
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        """Check all sizes.

        Raises:
            ValueError: A size is out of range, or the width or the heads do not divide.
        """
        check_numbers(self)
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not split into {self.num_attention_heads} "
                "heads of an even size"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.hidden_size // self.num_attention_heads


SIGLIP = "siglip"


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of the understanding encoder.

    Attributes:
        image_size: Side of the square input, in pixels.
        patch_size: Side of a square patch, in pixels.
        width: Channels of each patch's vector.
        layers: Transformer blocks.
        heads: Attention heads per block.
        mlp_ratio: Width of the MLP's hidden layer, in multiples of ``width``.
        layer_norm_eps: Epsilon of each layer norm.
        encoder: Its kind, by a name of ``ENCODERS`` (``model/encoders.py``). Only SigLIP is
            published.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4
    layer_norm_eps: float = 1e-6
    encoder: str = SIGLIP

    def __post_init__(self) -> None:
        """Check all sizes.

        Raises:
            ValueError: A size is out of range, patches do not tile the image, or heads do not
                divide.
        """
        check_numbers(self)
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")

    @property
    def num_patches(self) -> int:
        """Patch tokens per image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """Sizes of the VQ tokenizer.

    Attributes:
        size: Codes in the codebook.
        dim: Channels of a code.
        z_channels: Channels between encoder or decoder and the quantizer's convolutions.
        channels: Channels at the highest resolution, before its multiplier.
        encoder_ch_mult: Multiplier of ``channels`` per level; the last is the lowest resolution,
            and each level but that one halves the image.
        decoder_ch_mult: The same for the decoder.
        num_res_blocks: Residual blocks per level of the encoder; the decoder has one more.
        num_groups: Groups of each group norm.
        l2_norm: Whether latents and codes are L2-normalised before they are compared.
        plain: Colours of plain backgrounds, of 255; the first codes are theirs (``plain.py``).
        recoloured: Whether images are encoded as if their background had the first of them.
    """

    size: int
    dim: int
    z_channels: int
    channels: int
    encoder_ch_mult: tuple[int, ...]
    decoder_ch_mult: tuple[int, ...]
    num_res_blocks: int = 2
    num_groups: int = 32
    l2_norm: bool = True
    plain: tuple[tuple[int, int, int], ...] = ()
    recoloured: bool = False

    def __post_init__(self) -> None:
        """Check all sizes.

        Raises:
            ValueError: Sizes or colours are out of range, levels differ, or groups do not divide.
        """
        check_numbers(self)
        check_colours("plain", self.plain, self.size - 1)
        if self.recoloured and not self.plain:
            raise ValueError("recoloured needs the colours of plain")
        if len(self.encoder_ch_mult) != len(self.decoder_ch_mult):
            raise ValueError("encoder_ch_mult and decoder_ch_mult differ in length")
        if self.channels % self.num_groups:
            raise ValueError(f"channels {self.channels} is no multiple of {self.num_groups}")

    @property
    def stride(self) -> int:
        """Pixels per code, along each side."""
        return 2 ** (len(self.encoder_ch_mult) - 1)


@dataclass(frozen=True, kw_only=True)
class AlignerConfig:
    """Depth of an aligner: linear layers with GELU between; depth 1 is one linear layer."""

    depth: int = 2

    def __post_init__(self) -> None:
        """Check the depth; raise ValueError if it is out of range."""
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class ImageHeadConfig:
    """Width of the image head's hidden layer."""

    image_token_embed: int

    def __post_init__(self) -> None:
        """Check the width; raise ValueError if it is out of range."""
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Sizes of JanusFlow's velocity network.

    Attributes:
        channels: Channels of the encoder's maps.
        latent_channels: Channels of the autoencoder's latent.
        patch: Latent cells per token, along each side.
        layers_in_middle: ConvNeXt blocks of the encoder, and of the decoder.
        norm_eps: Epsilon of each norm.
    """

    channels: int
    latent_channels: int = 4
    patch: int = 2
    layers_in_middle: int = 2
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Check all sizes; raise ValueError if one is out of range."""
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class _Nested:
    """Config made of sections, read from and written to nested JSON."""

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        """Return the config that nested JSON describes.

        Args:
            raw: One object per section, each with the fields of that section's class.

        Raises:
            ValueError: A key is unknown, missing or of a wrong value; the error names it.
        """
        sections = {f.name: f.type for f in dataclasses.fields(cls)}
        _refuse_unknown("the model's config", raw, sections)
        read = {}
        for name, values in raw.items():
            section = _SECTIONS[str(sections[name])]
            _refuse_unknown(
                f'section "{name}"', values, {f.name for f in dataclasses.fields(section)}
            )
            try:
                read[name] = section(**with_tuples(values))
            except TypeError as error:
                raise ValueError(f'section "{name}": {error}') from None
        try:
            return cls(**read)
        except TypeError as error:
            raise ValueError(f"the model's config: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the nested JSON that ``from_dict`` reads; what is as published is not named."""
        found = dataclasses.asdict(self)
        if found["vision"]["encoder"] == SIGLIP:
            del found["vision"]["encoder"]
        if not found.get("codebook", {}).get("plain", True):
            del found["codebook"]["plain"], found["codebook"]["recoloured"]
        return found


@dataclass(frozen=True, kw_only=True)
class JanusFlowConfig(_Nested):
    """Config of a JanusFlow without its autoencoder. Source: arXiv 2411.07975."""

    language: LanguageConfig
    vision: VisionConfig
    flow: FlowConfig


@dataclass(frozen=True, kw_only=True)
class JanusConfig(_Nested):
    """Config of an autoregressive Janus. Source: arXiv 2410.13848."""

    language: LanguageConfig
    vision: VisionConfig
    codebook: CodebookConfig
    gen_head: ImageHeadConfig
    aligner: AlignerConfig = dataclasses.field(default_factory=AlignerConfig)
    gen_aligner: AlignerConfig = dataclasses.field(default_factory=AlignerConfig)

    def __post_init__(self) -> None:
        """Check that images split into codes.

        Raises:
            ValueError: The image size is no multiple of the codebook's stride.
        """
        if self.vision.image_size % self.codebook.stride:
            raise ValueError(
                f"image_size {self.vision.image_size} is no multiple of the codebook's stride "
                f"{self.codebook.stride}"
            )

    @property
    def code_grid(self) -> int:
        """Codes along a side of a drawn image."""
        return self.vision.image_size // self.codebook.stride

    @property
    def num_codes(self) -> int:
        """Codes per drawn image."""
        return self.code_grid**2


_SECTIONS: dict[str, type] = {
    c.__name__: c
    for c in (
        LanguageConfig,
        VisionConfig,
        CodebookConfig,
        AlignerConfig,
        ImageHeadConfig,
        FlowConfig,
    )
}


def _refuse_unknown(where: str, raw: Any, known: Any) -> None:
    """Raise ValueError if ``raw`` is no object or has keys that are not in ``known``."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is {shown(raw)}, not an object")
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise ValueError(f"{where} has unknown keys: {', '.join(unknown)}")
