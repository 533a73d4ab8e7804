"""What every Janus does with text and images that it sees; each family adds how it draws.

Shapes: B batch, R rows, T time, N image tokens, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from janus_edge.model.language import LanguageModel


class VisionLanguageModel(nn.Module, ABC):
    """Language model that sees images as vectors in place of placeholder tokens."""

    language_model: LanguageModel

    def embed_text(self, ids: Tensor) -> Tensor:
        """Return the embeddings (R, T, D) of token ids (R, T)."""
        return self.language_model.model.embed_tokens(ids)

    @abstractmethod
    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the images' vectors (B, N, D), which replace their placeholders."""

    def embed_prompt(self, ids_RT: Tensor, pixels_BCHW: Tensor, placeholder: int) -> Tensor:
        """Return the prompt's embeddings (R, T, D), with images.

        Args:
            ids_RT: Token ids, with N placeholders per image.
            pixels_BCHW: Images in the order of their placeholders.
            placeholder: Token id that the images' vectors replace.
        """
        x_RTD = self.embed_text(ids_RT)
        vectors = self.embed_images(pixels_BCHW).flatten(0, 1).to(x_RTD.dtype)
        where = (ids_RT == placeholder)[..., None].expand_as(x_RTD)
        return x_RTD.masked_scatter(where, vectors)

    def hidden(
        self, x_RTD: Tensor, positions_RT: Tensor | None = None, mask_RTT: Tensor | None = None
    ) -> Tensor:
        """Return hidden states (R, T, D) of one causal pass, after the final norm.

        The arguments are those of ``language.Decoder.forward``.
        """
        return self.language_model.model(x_RTD, positions_RT, mask_RTT=mask_RTT)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Return the vocabulary logits (…, V) of hidden states (…, D)."""
        return self.language_model.lm_head(hidden)
