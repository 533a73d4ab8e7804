"""Losses of packed rows: cross-entropy on tokens and codes, rectified flow, REPA.

Each loss is returned as a sum, to be divided by a number that all processes know
(``train/steps.py``). The papers weight no task, so neither does this.

Shapes: R rows, T time, D width, I images asked about, G images drawn, N tokens per drawn image, Z
latent channels, H, W latent cells, W vision width.

Source: arXiv 2410.13848, section 3.2; 2411.07975, section 3.3; REPA is 2410.06940.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.train.packing import Packed
from janus_edge.train.pieces import CODE
from janus_edge.train.sections import Repa

Sums = dict[str, Tensor]


class JanusLosses(nn.Module):
    """A Janus in training: from packed rows to sums of losses.

    Its forward computes everything that needs weights, so that FSDP can gather them around it.
    """

    def __init__(self, model: Janus) -> None:
        """Keep the model; its VQ tokenizer is not used here."""
        super().__init__()
        self.model = model

    def forward(self, packed: Packed) -> Sums:
        """Return the summed cross-entropy of answers ("answer") and of codes ("image")."""
        model, is_code = self.model, packed.kinds_RT == CODE
        x_RTD = model.embed_text(packed.ids_RT.masked_fill(is_code, 0))
        codes_RTD = model.embed_codes(packed.ids_RT.masked_fill(~is_code, 0))
        x_RTD = torch.where(is_code[..., None], codes_RTD.to(x_RTD.dtype), x_RTD)
        x_RTD = _placed(x_RTD, packed.at["seen"], model.embed_images(_seen(packed, model)))
        hidden = model.hidden(x_RTD, packed.positions_RT, packed.mask())
        heads = {"answer": model.text_logits, "image": model.image_logits}
        return {
            name: _cross_entropy(head(_taken(hidden, packed.at[name])), packed.targets[name])
            for name, head in heads.items()
        }


class FlowLosses(nn.Module):
    """A JanusFlow in training: from packed rows to sums of losses.

    ``Packed.drawn`` holds "latent" and "noise" (G, Z, H, W), "t" (G,), and for REPA "clean"
    (G, 3, H, W), the images themselves in [-1, 1].
    """

    def __init__(self, model: JanusFlow, repa: Repa | None) -> None:
        """Keep the model and create REPA's projector, which is not published.

        Args:
            model: The model; its autoencoder is not used here.
            repa: REPA's settings; None for no REPA.
        """
        super().__init__()
        self.model, self.repa = model, repa
        width, seen = model.config.language.hidden_size, model.config.vision.width
        sizes = (width, repa.hidden, repa.hidden, seen) if repa else ()
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.projector = nn.Sequential(
            *[part for each in layers for part in (each, nn.SiLU())][:-1]
        )

    def forward(self, packed: Packed) -> Sums:
        """Return the summed losses: "answer" over tokens, "velocity" and "repa" over images."""
        model, at = self.model, packed.at
        x_RTD = model.embed_text(packed.ids_RT)
        x_RTD = _placed(x_RTD, at["seen"], model.embed_images(_seen(packed, model)))
        begin_KD = model.beg_of_und_embed.expand(max(1, len(at["begin"])), -1)
        x_RTD = _placed(x_RTD, at["begin"], begin_KD)
        given = packed.drawn or _no_latents(model, x_RTD.device)
        x, z0, t_G = given["latent"], given["noise"], given["t"]
        t = t_G[:, None, None, None]
        tokens_GND, t_GD, skip = model.encode_latent(t * x + (1 - t) * z0, t_G)
        x_RTD = _placed(_placed(x_RTD, at["time"], t_GD), at["latent"], tokens_GND)
        hidden, early = self._hidden(x_RTD, packed)
        sums = {
            "answer": _cross_entropy(
                model.text_logits(_taken(hidden, at["answer"])), packed.targets["answer"]
            )
        }
        counts = float(bool(packed.drawn))  # 0 if the latent stands nowhere
        v = model.decode_velocity(_of_latents(hidden, at["latent"], tokens_GND.shape), skip, t_GD)
        sums["velocity"] = counts * (v.float() - (x - z0)).square().mean((1, 2, 3)).sum()
        if self.repa:
            early_GND = _of_latents(early, at["latent"], tokens_GND.shape)
            sums["repa"] = counts * self._repa(early_GND, given["clean"])
        return sums

    def _hidden(self, x_RTD: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """Return the hidden states after the last norm, and those after REPA's layer."""
        early: list[Tensor] = []
        layers = self.model.language_model.model.layers
        layer = layers[self.repa.layer - 1 if self.repa else 0]
        hook = layer.register_forward_hook(lambda _module, _inputs, output: early.append(output))
        try:
            hidden = self.model.hidden(x_RTD, packed.positions_RT, packed.mask())
        finally:
            hook.remove()
        return hidden, early[0]

    def _repa(self, early_GND: Tensor, clean_GCHW: Tensor) -> Tensor:
        """Return the sum over images of 1 - cosine similarity, each the mean over its tokens."""
        with torch.no_grad():
            seen_GNW = self.model.vision_und_enc_model(clean_GCHW)
        wanted = on_grid(seen_GNW.float(), self.model.latent_grid)
        likeness = F.cosine_similarity(self.projector(early_GND).float(), wanted, dim=-1)
        return (1 - likeness).mean(1).sum()


def on_grid(features_GNW: Tensor, grid: int) -> Tensor:
    """Return patch features averaged to one vector per token of a latent, (G, grid * grid, W)."""
    side = int(features_GNW.shape[1] ** 0.5)
    maps = features_GNW.transpose(1, 2).reshape(len(features_GNW), -1, side, side)
    return F.adaptive_avg_pool2d(maps, grid).flatten(2).transpose(1, 2)


def _placed(x_RTD: Tensor, at_K: Tensor, vectors: Tensor) -> Tensor:
    """Return ``x`` with vectors (…, D) at some of its positions; as many are used as those are."""
    vectors_KD = vectors.reshape(-1, vectors.shape[-1])[: len(at_K)].to(x_RTD.dtype)
    return x_RTD.flatten(0, 1).index_copy(0, at_K, vectors_KD).view(x_RTD.shape)


def _taken(x_RTD: Tensor, at_K: Tensor) -> Tensor:
    """Return the vectors (K, D) at some positions."""
    return x_RTD.flatten(0, 1).index_select(0, at_K)


def _seen(packed: Packed, model: Janus | JanusFlow) -> Tensor:
    """Return the images that are asked about, or a black one that stands nowhere.

    Every weight so has a gradient in every row on every process, which FSDP's sums need.
    """
    side, device = model.config.vision.image_size, packed.ids_RT.device
    return (
        torch.zeros(1, 3, side, side, device=device)
        if packed.seen_ICHW is None
        else packed.seen_ICHW
    )


def _no_latents(model: JanusFlow, device: torch.device) -> dict[str, Tensor]:
    """Return a latent that stands nowhere, for rows that draw nothing; see ``_seen``."""
    shape = (1, model.config.flow.latent_channels, model.latent_size, model.latent_size)
    side = model.config.vision.image_size
    sizes = {"latent": shape, "noise": shape, "t": (1,), "clean": (1, 3, side, side)}
    return {name: torch.zeros(size, device=device) for name, size in sizes.items()}


def _of_latents(hidden_RTD: Tensor, at_K: Tensor, shape: torch.Size) -> Tensor:
    """Return the hidden states (G, N, D) of latents; any, if rows draw nothing."""
    if len(at_K):
        return _taken(hidden_RTD, at_K).view(shape[0], shape[1], -1)
    return hidden_RTD[:1, :1].expand(*shape[:2], -1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy in fp32; 0 of no targets."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")
