"""What every Janus does with text and images that it sees; the families add how they draw.

Shapes: B batch, R rows, T time, N image tokens, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from janus_edge.model.language import LanguageModel


class VisionLanguageModel(nn.Module, ABC):
    """A language model that is shown images as vectors at their placeholders."""

    language_model: LanguageModel

    def embed_text(self, ids: Tensor) -> Tensor:
        """Token ids (R, T) to embeddings (R, T, D)."""
        return self.language_model.model.embed_tokens(ids)

    @abstractmethod
    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Images to the vectors that stand at their placeholders, (B, N, D)."""

    def embed_prompt(self, ids_RT: Tensor, pixels_BCHW: Tensor, placeholder: int) -> Tensor:
        """Text embeddings with the images' vectors at the placeholders, in order, (R, T, D)."""
        x_RTD = self.embed_text(ids_RT)
        vectors = self.embed_images(pixels_BCHW).flatten(0, 1).to(x_RTD.dtype)
        where = (ids_RT == placeholder)[..., None].expand_as(x_RTD)
        return x_RTD.masked_scatter(where, vectors)

    def hidden(
        self, x_RTD: Tensor, positions_RT: Tensor | None = None, mask_RTT: Tensor | None = None
    ) -> Tensor:
        """One causal pass over embeddings, final norm included; see ``language.Decoder``."""
        return self.language_model.model(x_RTD, positions_RT, mask_RTT=mask_RTT)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states to vocabulary logits (…, V)."""
        return self.language_model.lm_head(hidden)
