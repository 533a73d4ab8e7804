"""JanusFlow: a language model that answers, and draws by rectified flow.

Parameter names are the published ones; the autoencoder, published separately, is under ``vae.``.

Shapes: B batch, R rows, T time, N image tokens, D width, Z latent channels, H, W latent cells, C
channels, h, w tokens along the sides.

Source: arXiv 2411.07975.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from janus_edge.model.config import JanusFlowConfig
from janus_edge.model.encoders import make_encoder
from janus_edge.model.flow import FlowDecoder, FlowEncoder
from janus_edge.model.language import LanguageModel
from janus_edge.model.vae import VAE, VAEConfig
from janus_edge.model.vision_language import VisionLanguageModel


class JanusFlow(VisionLanguageModel):
    """Model that understands images through SigLIP and draws latents along a velocity field."""

    def __init__(self, config: JanusFlowConfig, vae: VAEConfig) -> None:
        """Create all parts with untrained weights.

        Args:
            config: Sizes of all parts but the autoencoder.
            vae: Sizes of the autoencoder.

        Raises:
            ValueError: The autoencoder's latents do not fit the flow.
        """
        super().__init__()
        width, flow = config.language.hidden_size, config.flow
        if vae.latent_channels != flow.latent_channels:
            raise ValueError(
                f"the autoencoder has {vae.latent_channels} latent channels, the flow "
                f"{flow.latent_channels}"
            )
        if config.vision.image_size % (vae.stride * flow.patch):
            raise ValueError(
                f"image_size {config.vision.image_size} is no multiple of the autoencoder's "
                f"stride {vae.stride} times patch {flow.patch}"
            )
        self.config, self.vae_config = config, vae
        self.vision_und_enc_model = make_encoder(config.vision)
        self.vision_und_enc_aligner = nn.Linear(config.vision.width, width)
        self.beg_of_und_embed = nn.Parameter(torch.zeros(1, width))
        self.vision_gen_enc_model = FlowEncoder(flow, width)
        self.vision_gen_enc_aligner = nn.Linear(flow.channels, width)
        self.vision_gen_dec_aligner_norm = nn.RMSNorm(width, eps=config.language.rms_norm_eps)
        self.vision_gen_dec_aligner = nn.Linear(width, flow.channels)
        self.vision_gen_dec_model = FlowDecoder(flow, width)
        self.language_model = LanguageModel(config.language)
        self.vae = VAE(vae)

    @property
    def latent_size(self) -> int:
        """Cells along a side of a drawn image's latent."""
        return self.config.vision.image_size // self.vae_config.stride

    @property
    def latent_grid(self) -> int:
        """Tokens along a side of a drawn image's latent."""
        return self.latent_size // self.config.flow.patch

    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the images' vectors (B, N, D), which replace their placeholders."""
        return self.vision_und_enc_aligner(self.vision_und_enc_model(pixels_BCHW))

    def embed_prompt(self, ids_RT: Tensor, pixels_BCHW: Tensor, placeholder: int) -> Tensor:
        """Return the prompt's embeddings (R, T, D), with images.

        As in the base class, but a learned vector replaces the token before each image.
        """
        x_RTD = super().embed_prompt(ids_RT, pixels_BCHW, placeholder)
        is_image = ids_RT == placeholder
        begins = is_image.roll(-1, dims=1) & ~is_image
        begins[:, -1] = False
        return torch.where(begins[..., None], self.beg_of_und_embed.to(x_RTD.dtype), x_RTD)

    def encode_latent(self, z_BZHW: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a latent's tokens, its timestep's embedding and the skip connection.

        Args:
            z_BZHW: Latent.
            t_B: Timestep in 0..1.

        Returns:
            Tokens (B, N, D), embedding (B, D), skip connection (B, C, h, w).
        """
        skip_BChw, t_BD = self.vision_gen_enc_model(z_BZHW, t_B)
        return self.vision_gen_enc_aligner(skip_BChw.flatten(2).transpose(1, 2)), t_BD, skip_BChw

    def decode_velocity(self, hidden_BND: Tensor, skip_BChw: Tensor, t_BD: Tensor) -> Tensor:
        """Return the velocity (B, Z, H, W) from the hidden states of a latent's tokens.

        Args:
            hidden_BND: Hidden states of the latent's tokens.
            skip_BChw: Skip connection that ``encode_latent`` returned.
            t_BD: The timestep's embedding that ``encode_latent`` returned.
        """
        x_BNC = self.vision_gen_dec_aligner(self.vision_gen_dec_aligner_norm(hidden_BND))
        x_BChw = x_BNC.transpose(1, 2).reshape(skip_BChw.shape)
        return self.vision_gen_dec_model(x_BChw, skip_BChw, t_BD)

    def velocity(
        self,
        prompt_RTD: Tensor,
        z_RZHW: Tensor,
        t_R: Tensor,
        seen_RT: Tensor | None = None,
        positions_RT: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity (R, Z, H, W) after embedded prompts, without a KV cache.

        Args:
            prompt_RTD: Embedded prompts.
            z_RZHW: Latents.
            t_R: Timesteps in 0..1.
            seen_RT: Which positions of the prompt may be attended to (bool); None for all.
            positions_RT: Positions of the whole sequence; None for 0, 1, ...
        """
        tokens_RND, t_RD, skip = self.encode_latent(z_RZHW, t_R)
        made = torch.cat((t_RD[:, None], tokens_RND), dim=1)  # bf16 under autocast
        x_RTD = torch.cat((prompt_RTD, made.to(prompt_RTD.dtype)), dim=1)
        mask = None if seen_RT is None else flow_mask(seen_RT, x_RTD.shape[1])
        hidden = self.hidden(x_RTD, positions_RT, mask)[:, -tokens_RND.shape[1] :]
        return self.decode_velocity(hidden, skip, t_RD)


def flow_mask(seen_RT: Tensor, length: int) -> Tensor:
    """Return causal attention masks (R, T', T') that leave out unseen positions.

    A position always attends to itself: the hidden states of masked positions do not matter, but
    must be finite.

    Args:
        seen_RT: Which positions of the prompt may be attended to (bool).
        length: Length T' of the whole sequence.
    """
    rows, prompt = seen_RT.shape
    seen = torch.ones(rows, length, dtype=torch.bool, device=seen_RT.device)
    seen[:, :prompt] = seen_RT
    own = torch.eye(length, dtype=torch.bool, device=seen_RT.device)
    return (seen[:, None] | own).tril()


def unconditional_rows(ids_BT: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Return the unconditional rows of classifier-free guidance: ids (B, T) and seen (B, T).

    Every id but the first is ``pad``, and is not seen.

    Args:
        ids_BT: Token ids of prompts of equal length.
        pad: Token id of padding.
    """
    out = torch.full_like(ids_BT, pad)
    out[:, 0] = ids_BT[:, 0]
    seen = torch.zeros_like(ids_BT, dtype=torch.bool)
    seen[:, 0] = True
    return out, seen
