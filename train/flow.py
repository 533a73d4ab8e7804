"""The three training stages of JanusFlow.

The losses are rectified flow at logit-normal timesteps, cross-entropy on answers, and REPA (arXiv
2410.06940): the language model's early features of the noisy latent are drawn to the vision
encoder's features of the clean image. A running mean of the weights is published. Freezing is the
paper's; docs/training.md says what else differs.

Shapes: B images, P padded prompts, T whole sequences, Z latent channels, H, W latent cells, N
tokens, D width.

Source: arXiv 2411.07975, sections 3.3 and 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from janus_edge.model.janusflow import JanusFlow
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.shapes.captions import Caption, caption
from janus_edge.shapes.questions import LESSONS
from janus_edge.shapes.scenes import Scene
from janus_edge.train.data import DROPPED_CONDITIONS
from janus_edge.train.loop import LossAt, autocast
from janus_edge.train.losses import on_grid
from janus_edge.train.stages import MixedStage, asked, mean_of_answers, sequence_losses
from janus_edge.train.vq import scene_images

_ADAPTERS = (
    "projector.",
    "model.vision_und_enc_aligner.",
    "model.beg_of_und_embed",
    "model.vision_gen_",
)


@dataclass(frozen=True, kw_only=True)
class FlowStage(MixedStage):
    """A stage of JanusFlow.

    Attributes:
        repa_layer: Layer of the language model after which REPA compares features, from 1.
        repa_weight: Weight of REPA's loss; the flow's is 1.
        time_mean: Mean of the timesteps' logits. Below 0, more timesteps are near noise, where it
            is decided what is drawn and where (docs/log.md).
    """

    questions_a_picture: int = 8
    topics: tuple[str, ...] = (*LESSONS, "shape", "position")  # what takes most to learn
    muon: tuple[str, ...] = (".layers.", ".channelwise_linear")
    repa_layer: int = 2  # of 6 layers; the paper's is 6 of 24, which is rounded up here
    repa_weight: float = 0.5
    time_mean: float = -0.8


FLOW_STAGES = (
    FlowStage(
        name="flow1",
        number=11,
        num_steps=80,
        mixture=(12, 0, 12),  # 50 : 0 : 50
        batch_size=24,
        learning_rate=1e-3,
        warmup_steps=20,
        trainable=_ADAPTERS,
    ),
    FlowStage(
        name="flow2",
        number=12,
        num_steps=16000,
        horizon=16200,  # stage 3 goes on at the rate that this one ends with
        mixture=(2, 1, 26),  # the paper: 14 : 6 : 80
        batch_size=29,
        learning_rate=1e-3,
        warmup_steps=60,
        decay_from=0.45,
        trainable=(*_ADAPTERS, "model.language_model."),
    ),
    FlowStage(
        name="flow3",
        number=13,
        num_steps=300,
        mixture=(6, 3, 20),  # 21 : 9 : 70
        batch_size=29,
        learning_rate=1e-4,
        decay_from=0.0,
        trainable=(*_ADAPTERS, "model.language_model.", "model.vision_und_enc_model."),
    ),
)


class Trainee(nn.Module):
    """A JanusFlow with what only its training needs: REPA's projector and the mean of the weights.

    ``average`` holds the mean of all weights that are ever trained; its copy is published.
    """

    def __init__(self, model: JanusFlow, decay: float = 0.999) -> None:
        """Create the projector and start the mean at the model's weights.

        Args:
            model: The model to train.
            decay: Share of the old mean that each step keeps.
        """
        super().__init__()
        width, vision = model.config.language.hidden_size, model.config.vision.width
        self.model = model
        self.projector = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, vision))
        mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(model, multi_avg_fn=mean)

    def update(self) -> None:
        """Move the mean towards the weights; to be called after each step."""
        self.average.update_parameters(self.model)

    def averaged(self) -> JanusFlow:
        """Return the model with the mean of the weights."""
        model = self.average.module
        assert isinstance(model, JanusFlow)
        return model.eval()


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Left-padded prompts without their last token.

    Attributes:
        ids_BP: Token ids.
        seen_BP: Which positions may be attended to (bool).
        positions_BT: Positions of the whole sequence.
    """

    ids_BP: Tensor
    seen_BP: Tensor
    positions_BT: Tensor


def prompts(
    captions: list[Caption], rng: np.random.Generator, encoder: PromptEncoder, num_tokens: int
) -> Prompts:
    """Return the prompts of captions; a tenth of them are replaced by the unconditional prompt.

    Args:
        captions: One caption per row.
        rng: Source of which captions are dropped.
        encoder: Encoder of prompts.
        num_tokens: Tokens per latent, which follow the timestep.
    """
    rows = [encoder.generation(each.text)[:-1] for each in captions]
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), encoder.ids["pad"])
    seen = np.zeros(ids.shape, bool)
    positions = np.zeros((len(rows), longest + 1 + num_tokens), np.int64)
    for i, row in enumerate(rows):
        start = longest - len(row)
        positions[i, start:] = np.arange(len(row) + 1 + num_tokens)
        seen[i, start] = True
        ids[i, start] = row[0]
        if rng.random() >= DROPPED_CONDITIONS:
            ids[i, start:], seen[i, start:] = row, True
    return Prompts(
        ids_BP=torch.from_numpy(ids),
        seen_BP=torch.from_numpy(seen),
        positions_BT=torch.from_numpy(positions),
    )


def flow_loss(trainee: Trainee, stage: FlowStage, encoder: PromptEncoder) -> LossAt:
    """Return the loss of a stage: velocities, REPA and answers about images and texts.

    Args:
        trainee: The model in training.
        stage: The stage.
        encoder: Encoder of prompts.
    """
    model = trainee.model
    num_patches, placeholder = model.config.vision.num_patches, encoder.ids["image_placeholder"]

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((stage.number, step))
        seen, told, drawn = stage.scenes(step)
        pairs = stage.relations(step)
        captions = [caption(scene, rng) for scene in drawn]
        captions += [caption(scene, rng, "position") for scene in pairs]
        velocity, repa = drawing_losses(trainee, stage, drawn + pairs, captions, rng, encoder)
        total = velocity + stage.repa_weight * repa
        metrics = {"velocity": velocity.item(), "repa": repa.item()}
        for name, sequences in asked(stage, seen, told, rng, encoder, num_patches).items():
            losses, part = sequence_losses(model, sequences, placeholder)
            share = len(sequences.ids_BT) / stage.batch_size
            total = total + share * mean_of_answers(losses, part)
            metrics[name] = losses.mean().item()
        return total, metrics

    return loss_at


def drawing_losses(
    trainee: Trainee,
    stage: FlowStage,
    batch: list[Scene],
    captions: list[Caption],
    rng: np.random.Generator,
    encoder: PromptEncoder,
) -> tuple[Tensor, Tensor]:
    """Return the squared error of the velocity, and REPA's 1 - cosine similarity.

    Each image has one random timestep.

    Args:
        trainee: The model in training.
        stage: Settings of REPA and of the timesteps.
        batch: Scenes to draw.
        captions: Caption of each scene.
        rng: Source of noise, timesteps and dropped captions.
        encoder: Encoder of prompts.
    """
    model, device = trainee.model, trainee.model.beg_of_und_embed.device
    pixels = scene_images(batch).to(device)
    with torch.no_grad(), autocast(device):
        x_BZHW = model.vae.to_latent(pixels).float()
        clean_BNC = model.vision_und_enc_model(pixels).float()
    noise = rng.standard_normal(x_BZHW.shape, np.float32)
    z0_BZHW = torch.from_numpy(noise).to(device)
    logits = stage.time_mean + rng.standard_normal(len(batch), np.float32)
    t_B = torch.from_numpy(logits).to(device).sigmoid()
    t = t_B[:, None, None, None]
    prompt = prompts(captions, rng, encoder, model.latent_grid**2)
    with autocast(device):
        v_BZHW, early_BND = _velocity(
            model, prompt, t * x_BZHW + (1 - t) * z0_BZHW, t_B, stage.repa_layer
        )
        likeness = F.cosine_similarity(
            trainee.projector(early_BND).float(), on_grid(clean_BNC, model.latent_grid), dim=-1
        )
    return F.mse_loss(v_BZHW.float(), x_BZHW - z0_BZHW), 1 - likeness.mean()


def _velocity(
    model: JanusFlow, prompt: Prompts, z_BZHW: Tensor, t_B: Tensor, layer: int
) -> tuple[Tensor, Tensor]:
    """Return velocities (B, Z, H, W), and hidden states (B, N, D) after an early layer."""
    early: list[Tensor] = []
    hook = model.language_model.model.layers[layer - 1].register_forward_hook(
        lambda _module, _inputs, output: early.append(output)
    )
    device = z_BZHW.device
    try:
        v_BZHW = model.velocity(
            model.embed_text(prompt.ids_BP.to(device)),
            z_BZHW,
            t_B,
            prompt.seen_BP.to(device),
            prompt.positions_BT.to(device),
        )
    finally:
        hook.remove()
    return v_BZHW, early[0][:, -(model.latent_grid**2) :]


def initialise_flow(model: JanusFlow) -> None:
    """Set scaled normal weights where no earlier training gives any; start velocities at zero."""
    fresh = (
        model.vision_und_enc_aligner,
        model.vision_gen_enc_model,
        model.vision_gen_enc_aligner,
        model.vision_gen_dec_aligner,
        model.vision_gen_dec_model,
    )
    for module in (m for part in fresh for m in part.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, module in model.named_modules():
        if name.endswith((".channelwise_linear_2", ".cond_embeds_mapper", ".unpatch_conv")):
            nn.init.zeros_(module.weight)
    nn.init.normal_(model.beg_of_und_embed, std=0.1)
