"""Training examples of Janus: pictures to draw, questions to answer, text alone.

Everything of a step follows from its number. Shapes: B batch, T time, N codes a picture.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from janus_edge.model.codebook import VQTokenizer
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.shapes.captions import caption
from janus_edge.shapes.questions import TOPICS, Question, question, tell
from janus_edge.shapes.scenes import Scene, scenes
from janus_edge.train.vq import pictures, taught_codes

DROPPED_CONDITIONS = 0.1
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Right-padded rows. ``targets`` are what the next position should be, IGNORED elsewhere."""

    ids_BT: Tensor
    targets_BT: Tensor
    pixels_BCHW: Tensor | None = None  # one picture a row, at its placeholders
    is_code_BT: Tensor | None = None  # where ids are codes, not tokens

    def to(self, device: torch.device) -> Sequences:
        """The same rows on a device."""
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return Sequences(**moved)


def drawings(
    batch: list[Scene], rng: np.random.Generator, encoder: PromptEncoder, tokenizer: VQTokenizer
) -> Sequences:
    """Captions followed by the codes of their pictures; a tenth of the captions are dropped."""
    codes_BN = taught_codes(tokenizer, batch).cpu().numpy()
    rows, targets, is_code = [], [], []
    for scene, codes in zip(batch, codes_BN, strict=True):
        prompt = encoder.generation(caption(scene, rng).text)
        if rng.random() < DROPPED_CONDITIONS:
            prompt = encoder.unconditional(prompt)
        rows.append(np.concatenate([prompt, codes[:-1]]))
        targets.append(np.concatenate([np.full(len(prompt) - 1, IGNORED), codes]))
        is_code.append(np.arange(len(rows[-1])) >= len(prompt))
    return Sequences(
        ids_BT=_padded(rows, 0),
        targets_BT=_padded(targets, IGNORED),
        is_code_BT=_padded(is_code, False),
    )


def answers(
    batch: list[Scene],
    rng: np.random.Generator,
    encoder: PromptEncoder,
    num_image_tokens: int,
    num_questions: int,
) -> Sequences:
    """A picture and questions about it, each with its answer; the loss is on the answers."""
    talks = []
    for scene in batch:
        asked = _questions(scene, rng, num_questions)
        prompts = [encoder.question(asked[0].text, num_image_tokens)]
        prompts += [encoder.follow_up(q.text) for q in asked[1:]]
        talks.append([(p, encoder.answer(q.answer)) for p, q in zip(prompts, asked, strict=True)])
    return _dialogues(talks, encoder, pictures(batch))


def readings(batch: list[Scene], rng: np.random.Generator, encoder: PromptEncoder) -> Sequences:
    """A scene told in words, a question and its answer: the text-only part of the mixture."""
    talks = []
    for scene in batch:
        (q,) = _questions(scene, rng, 1)
        talks.append([(encoder.text(f"{tell(scene)} {q.text}"), encoder.answer(q.answer))])
    return _dialogues(talks, encoder, None)


def training_scenes(stage: int, step: int, size: int) -> list[Scene]:
    """The scenes of a stage's step: fresh ones, and never a held-out combination."""
    start = (stage << 32) + step * size * 2  # twice: room for the held-out tenth that is skipped
    return list(islice(scenes("train", start, held_out=False), size))


def _dialogues(
    talks: list[list[tuple[np.ndarray, np.ndarray]]], encoder: PromptEncoder, pixels: Tensor | None
) -> Sequences:
    """Rows of turns (prompt, answer)."""
    rows, targets = [], []
    for turns in talks:
        ids = np.concatenate([part for turn in turns for part in turn])
        known = [
            part for prompt, answer in turns for part in (np.full(len(prompt), IGNORED), answer)
        ]
        rows.append(ids[:-1])
        targets.append(np.concatenate(known)[1:])
    return Sequences(
        ids_BT=_padded(rows, encoder.ids["pad"]),
        targets_BT=_padded(targets, IGNORED),
        pixels_BCHW=pixels,
    )


def _questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """Of different topics. A description comes last: it would answer all that follows it."""
    topics = [TOPICS[i] for i in rng.permutation(len(TOPICS))]
    asked = [q for topic in topics if (q := question(scene, rng, topic)) is not None][:count]
    return sorted(asked, key=lambda q: q.topic == "describe")


def _padded(rows: list[np.ndarray], value: int | bool) -> Tensor:
    out = np.full((len(rows), max(map(len, rows))), value, rows[0].dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)
