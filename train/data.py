"""Training examples of Janus: images to draw, questions to answer, text alone.

The step's number determines all examples of a step.

Shapes: B batch, T time, N codes per image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from janus_edge.model.codebook import VQTokenizer
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.shapes.captions import caption
from janus_edge.shapes.questions import LESSONS, TOPICS, Question, question, tell
from janus_edge.shapes.scenes import KINDS, Scene, scenes
from janus_edge.train.pieces import IGNORED
from janus_edge.train.vq import scene_images, taught_codes

DROPPED_CONDITIONS = 0.1


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Right-padded rows of token ids or codes with their targets.

    Attributes:
        ids_BT: Token ids; codes where ``is_code_BT`` says so.
        targets_BT: Next id of each position, IGNORED where there is no loss.
        pixels_BCHW: One image per row, which replaces the row's placeholders.
        is_code_BT: Where ``ids_BT`` are codes (bool).
        positions_BT: Position of each id; None for 0, 1, ...
        question_BT: Where a row holds several questions about one image: 0 for what they share, and
            1, 2, ... for each. A question attends to what is shared and to itself.
    """

    ids_BT: Tensor
    targets_BT: Tensor
    pixels_BCHW: Tensor | None = None
    is_code_BT: Tensor | None = None
    positions_BT: Tensor | None = None
    question_BT: Tensor | None = None

    def to(self, device: torch.device) -> Sequences:
        """Return the same rows on a device."""
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return Sequences(**moved)

    def mask(self) -> Tensor | None:
        """Return where each position attends to, (B, T, T) bool; None for causal attention."""
        if self.question_BT is None:
            return None
        asked = self.question_BT
        shared = (asked == 0)[:, None] | (asked[:, :, None] == asked[:, None])
        return shared.tril()


def drawings(
    batch: list[Scene],
    rng: np.random.Generator,
    encoder: PromptEncoder,
    tokenizer: VQTokenizer,
    category: str | None = None,
) -> Sequences:
    """Return captions with the codes of their images; a tenth of the captions are dropped.

    Args:
        batch: Scenes to draw.
        rng: Source of captions and of which are dropped.
        encoder: Encoder of prompts.
        tokenizer: Trained VQ tokenizer.
        category: Category of the captions; None for any.
    """
    codes_BN = taught_codes(tokenizer, batch).cpu().numpy()
    rows, targets, is_code = [], [], []
    for scene, codes in zip(batch, codes_BN, strict=True):
        prompt = encoder.generation(caption(scene, rng, category).text)
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
    topics: tuple[str, ...] = LESSONS,
) -> Sequences:
    """Return images and questions about them, each as if asked alone; the loss is on the answers.

    Args:
        batch: Scenes to ask about.
        rng: Source of the questions.
        encoder: Encoder of prompts.
        num_image_tokens: Placeholders per image.
        num_questions: Most questions per image.
        topics: Topics of the questions.
    """
    rows, targets, positions, question = [], [], [], []
    for scene in batch:
        asked = _questions(scene, rng, num_questions, topics)
        prompts = [encoder.question(q.text, num_image_tokens) for q in asked]
        shared = int(np.flatnonzero(prompts[0] == encoder.ids["end_of_image"])[0]) + 1
        row, target = [prompts[0][:shared]], [np.full(shared, IGNORED)]
        for prompt, q in zip(prompts, asked, strict=True):
            ids, known = _turn(prompt[shared:], encoder.answer(q.answer))
            row.append(ids)
            target.append(known)
        rows.append(np.concatenate(row))
        targets.append(np.concatenate(target))
        question.append(np.repeat(np.arange(len(row)), [len(part) for part in row]))
        starts = [0] + [shared] * len(asked)
        positions.append(
            np.concatenate([s + np.arange(len(p)) for s, p in zip(starts, row, strict=True)])
        )
    return Sequences(
        ids_BT=_padded(rows, encoder.ids["pad"]),
        targets_BT=_padded(targets, IGNORED),
        pixels_BCHW=scene_images(batch),
        positions_BT=_padded(positions, 0),
        question_BT=_padded(question, 0),
    )


def readings(batch: list[Scene], rng: np.random.Generator, encoder: PromptEncoder) -> Sequences:
    """Return scenes told in words, each with a question and its answer: the text-only examples.

    Args:
        batch: Scenes to tell.
        rng: Source of the questions.
        encoder: Encoder of prompts.
    """
    turns = []
    for scene in batch:
        (q,) = _questions(scene, rng, 1, TOPICS)
        turns.append(_turn(encoder.text(f"{tell(scene)} {q.text}"), encoder.answer(q.answer)))
    rows, targets = zip(*turns, strict=True)
    return Sequences(ids_BT=_padded(rows, encoder.ids["pad"]), targets_BT=_padded(targets, IGNORED))


def training_scenes(
    stage: int, step: int, size: int, kinds: tuple[str, ...] = KINDS
) -> list[Scene]:
    """Return the scenes of a stage's step: new ones, and never a held-out combination.

    Args:
        stage: Number of the stage, 0 to 255.
        step: Number of the step.
        size: Number of scenes.
        kinds: Kinds of scenes to take.
    """
    start = (stage << 32) + step * size * 4  # room for what is skipped: held out, of other kinds
    fitting = (s for s in scenes("train", start, held_out=False) if s.kind in kinds)
    return list(islice(fitting, size))


def _turn(prompt: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of a prompt and its answer, each (T,)."""
    known = np.concatenate([np.full(len(prompt), IGNORED), answer])
    return np.concatenate([prompt, answer])[:-1], known[1:]


def _questions(
    scene: Scene, rng: np.random.Generator, count: int, topics: tuple[str, ...]
) -> list[Question]:
    """Return up to ``count`` different questions about a scene.

    All topics come once before one comes again. If the scene has no question of these topics, one
    of any topic is returned.
    """
    rounds = 1 + 2 * count // len(topics)
    turns = [topics[i] for _ in range(rounds) for i in rng.permutation(len(topics))]
    asked = [q for topic in turns if (q := question(scene, rng, topic)) is not None]
    if not asked:
        return _questions(scene, rng, 1, TOPICS)
    return list({q.text: q for q in asked}.values())[:count]


def _padded(rows: Sequence[np.ndarray], value: int | bool) -> Tensor:
    """Return rows as one tensor, padded on the right with ``value``."""
    out = np.full((len(rows), max(map(len, rows))), value, rows[0].dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)
