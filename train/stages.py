"""The three training stages of Janus.

Freezing and the ratios of understanding, text and generation are Janus-Pro's; steps, batch and
rates are the small model's. No loss is weighted by its task.

Source: arXiv 2410.13848, section 3.3; 2501.17811, table 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.shapes.questions import LESSONS
from janus_edge.shapes.scenes import KINDS, Scene
from janus_edge.train.data import (
    Sequences,
    answers,
    drawings,
    readings,
    training_scenes,
)
from janus_edge.train.loop import LossAt, Stage, autocast
from janus_edge.train.pieces import IGNORED

_ADAPTERS = ("aligner.", "gen_aligner.", "gen_embed.", "gen_head.")


@dataclass(frozen=True, kw_only=True)
class MixedStage(Stage):
    """A stage with a mixture of understanding, text and generation in each step.

    Attributes:
        number: Number of the stage, unique, as the scenes follow from it.
        mixture: Examples of understanding, text and generation per step.
        questions_a_picture: Most questions per image.
        topics: Topics of the questions.
        kinds: Kinds of scenes.
        num_relations: More drawings per step, of two things whose caption says where one is. The
            other captions say it too rarely for it to be learned (docs/log.md).
    """

    number: int
    mixture: tuple[int, int, int]
    questions_a_picture: int = 1
    topics: tuple[str, ...] = LESSONS
    kinds: tuple[str, ...] = KINDS
    num_relations: int = 0

    def scenes(self, step: int) -> tuple[list[Scene], list[Scene], list[Scene]]:
        """Return a step's scenes: to ask about as images, to ask about as texts, and to draw."""
        batch = training_scenes(self.number, step, self.batch_size, self.kinds)
        first, second = self.mixture[0], sum(self.mixture[:2])
        return batch[:first], batch[first:second], batch[second:]

    def relations(self, step: int) -> list[Scene]:
        """Return a step's scenes to draw by a relation."""
        return training_scenes(self.number + 100, step, self.num_relations, ("pair",))


@dataclass(frozen=True, kw_only=True)
class JanusStage(MixedStage):
    """A stage of Janus.

    Attributes:
        examples_alike: If True, the mixture's ratio weighs the losses, and within its part every
            answer has the same weight, whether of 3 tokens or of 30. If False, every token has the
            same weight.
    """

    examples_alike: bool = False


def _look_ups(number: int, num_steps: int, *topics: str) -> JanusStage:
    """Return a stage with one or two kinds of question alone, about images of several things.

    Among all topics, a kind of look-up takes thousands of steps to form; alone it takes 150
    (docs/log.md).
    """
    return JanusStage(
        name=f"look-up-{topics[0]}",
        number=number,
        num_steps=num_steps,
        mixture=(16, 0, 0),
        batch_size=16,
        learning_rate=1e-3,
        warmup_steps=30,
        questions_a_picture=5,
        examples_alike=True,
        topics=topics,
        kinds=("pair", "several"),
        trainable=("aligner.", "language_model."),
    )


STAGES = (
    JanusStage(
        name="stage1",
        number=1,
        num_steps=150,
        mixture=(8, 0, 24),  # 1 : 0 : 3
        batch_size=32,
        learning_rate=1e-3,
        warmup_steps=20,
        trainable=_ADAPTERS,
    ),
    _look_ups(21, 200, "shape"),
    _look_ups(22, 200, "existence", "shape"),
    _look_ups(23, 420, "place"),
    _look_ups(24, 1000, "position", "place"),
    JanusStage(
        name="stage2",
        number=2,
        num_steps=7000,
        horizon=11000,  # stage 3 goes on at the rate that this one ends with
        mixture=(8, 12, 20),  # 2 : 3 : 5
        batch_size=40,
        learning_rate=1.5e-3,
        warmup_steps=200,
        decay_from=0.3,
        trainable=(*_ADAPTERS, "language_model."),
    ),
    JanusStage(
        name="stage3",
        number=3,
        questions_a_picture=4,
        examples_alike=True,
        num_relations=6,
        num_steps=5200,
        mixture=(20, 4, 16),  # 5 : 1 : 4
        batch_size=40,
        learning_rate=1.2e-3,
        warmup_steps=50,
        decay_from=0.0,
        trainable=(*_ADAPTERS, "language_model.", "vision_model."),
    ),
)


def janus_loss(model: Janus, stage: JanusStage, encoder: PromptEncoder) -> LossAt:
    """Return the loss of a stage: cross-entropy on answers and codes of its mixture.

    Args:
        model: The model in training.
        stage: The stage.
        encoder: Encoder of prompts.
    """
    num_patches = model.config.vision.num_patches

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((stage.number, step))
        seen, told, drawn = stage.scenes(step)
        parts = {}
        vq = model.gen_vision_model
        if drawn:
            parts["image"] = drawings(drawn, rng, encoder, vq)
        if pairs := stage.relations(step):
            parts["relation"] = drawings(pairs, rng, encoder, vq, "position")
        parts |= asked(stage, seen, told, rng, encoder, num_patches)
        total, weights, metrics = torch.zeros((), device=model.gen_embed.weight.device), 0, {}
        for name, sequences in parts.items():
            losses, part = sequence_losses(model, sequences, encoder.ids["image_placeholder"])
            if stage.examples_alike:
                rows = len(sequences.ids_BT)
                total = total + rows * mean_of_answers(losses, part)
                weights += rows
            else:
                total, weights = total + losses.sum(), weights + len(losses)
            metrics[name] = losses.mean().item()
        return total / weights, metrics

    return loss_at


def asked(
    stage: MixedStage,
    seen: list[Scene],
    told: list[Scene],
    rng: np.random.Generator,
    encoder: PromptEncoder,
    num_patches: int,
) -> dict[str, Sequences]:
    """Return a step's questions about images (``answer``) and about scenes in words (``text``).

    Args:
        stage: Topics and number of the questions.
        seen: Scenes to ask about as images.
        told: Scenes to ask about as texts.
        rng: Source of the questions.
        encoder: Encoder of prompts.
        num_patches: Placeholders per image.
    """
    parts, count = {}, stage.questions_a_picture
    if seen:
        parts["answer"] = answers(seen, rng, encoder, num_patches, count, stage.topics)
    if told:
        parts["text"] = readings(told, rng, encoder)
    return parts


def mean_of_answers(losses: Tensor, part: Tensor) -> Tensor:
    """Return the mean over answers of the mean over each answer's tokens.

    Args:
        losses: Loss of each token.
        part: Answer that each token is part of: 0, 0, 1, ...
    """
    return (losses / torch.bincount(part)[part]).sum() / (part[-1] + 1)


def sequence_losses(
    model: Janus | JanusFlow, rows: Sequences, placeholder: int
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of every target, and the answer or image that it is part of.

    Args:
        model: The model.
        rows: Examples, on any device.
        placeholder: Token id that images replace.

    Returns:
        Losses, and the index of the answer or image of each (0, 0, 1, ...), both of the length of
        all targets that are not IGNORED.
    """
    device = model.language_model.lm_head.weight.device
    rows = rows.to(device)
    known = rows.targets_BT != IGNORED
    with autocast(device):
        x_BTD = embed(model, rows, placeholder)
        hidden = model.hidden(x_BTD, rows.positions_BT, rows.mask())[known]
        if rows.is_code_BT is None:
            logits = model.text_logits(hidden)
        else:
            assert isinstance(model, Janus)
            logits = model.image_logits(hidden)
    losses = F.cross_entropy(logits.float(), rows.targets_BT[known], reduction="none")
    begins = known & ~F.pad(known, (1, 0))[:, :-1]
    return losses, begins.flatten().cumsum(0)[known.flatten()] - 1


def embed(model: Janus | JanusFlow, rows: Sequences, placeholder: int) -> Tensor:
    """Return the decoder inputs (B, T, D) of text, images and codes.

    Args:
        model: The model.
        rows: Examples, on the model's device.
        placeholder: Token id that images replace.
    """
    if rows.is_code_BT is not None:
        assert isinstance(model, Janus)
        is_code = rows.is_code_BT
        text = model.embed_text(rows.ids_BT.masked_fill(is_code, 0))
        codes = model.embed_codes(rows.ids_BT.masked_fill(~is_code, 0))
        return torch.where(is_code[..., None], codes.to(text.dtype), text)
    if rows.pixels_BCHW is not None:
        return model.embed_prompt(rows.ids_BT, rows.pixels_BCHW, placeholder)
    return model.embed_text(rows.ids_BT)


def initialise(model: Janus) -> None:
    """Set scaled normal weights where nothing is pre-trained; residual branches start small."""
    depth = model.config.language.num_hidden_layers
    fresh = (model.language_model, model.aligner, model.gen_aligner, model.gen_head)
    for module in (m for part in fresh for m in part.modules()):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
    for name, module in model.language_model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith((".o_proj", ".down_proj")):
            nn.init.normal_(module.weight, std=(2 * depth * module.in_features) ** -0.5)
    with torch.no_grad():  # codes that look alike start alike
        model.gen_embed.weight.copy_(model.gen_vision_model.quantize.table() * 2)
