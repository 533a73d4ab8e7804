"""The sizes that every loop needs of a model, as the manifest holds them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from janus_edge.runtime import limits


class ManifestPart(BaseModel):
    """A part of the manifest: unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _size(name: str) -> Any:
    return Field(ge=1, le=limits.MOST_SIZES[name])


class Sizes(ManifestPart):
    """Sizes that every loop needs; ``max_length`` is the KV cache's, in positions."""

    hidden_size: Annotated[int, _size("hidden_size")]
    vocab_size: Annotated[int, _size("vocab_size")]
    num_layers: Annotated[int, _size("num_layers")]
    num_kv_heads: Annotated[int, _size("num_kv_heads")]
    head_dim: Annotated[int, _size("head_dim")]
    norm_epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-6
    max_length: Annotated[int, _size("max_length")]
    image_size: Annotated[int, _size("image_size")]
    num_image_tokens: Annotated[int, _size("num_image_tokens")]


class CodeSizes(Sizes):
    """The sizes of a model that draws codes, with ``code_grid`` codes along a side."""

    code_grid: Annotated[int, _size("code_grid")]
    codebook_size: Annotated[int, _size("codebook_size")]

    @property
    def num_codes(self) -> int:
        """Codes a drawn image."""
        return self.code_grid**2

    num_drawn = num_codes  # positions that a drawn image takes after its prompt


class FlowSizes(Sizes):
    """The sizes of a model that draws by a flow, with latent cells and tokens along a side."""

    latent_channels: Annotated[int, _size("latent_channels")]
    latent_size: Annotated[int, _size("latent_size")]
    latent_grid: Annotated[int, _size("latent_grid")]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image's latent."""
        return self.latent_channels, self.latent_size, self.latent_size

    @property
    def num_latent_tokens(self) -> int:
        """Tokens of an image's latent."""
        return self.latent_grid**2

    num_drawn = num_latent_tokens  # t's vector takes the place of the prompt's last token
