"""Examples as sequences of tokens: a prompt with an answer, or with an image to draw.

A piece is known before its image is read: how long it is and where its loss is follow from its
text. So every process can lay out a whole step, and reads the images of its own rows alone.

Shapes: T time, N tokens of a drawn image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from janus_edge.runtime.prompt import PromptEncoder, Turn

IGNORED = -100  # target of a position without a loss
TEXT, SEEN, CODE, TIME, LATENT = range(5)  # what stands at a position


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One example.

    Attributes:
        ids_T: Token ids; 0 where a code, a timestep or a latent stands.
        targets_T: Next token id of each position, IGNORED where there is no loss on text.
        kinds_T: What stands at each position: TEXT, SEEN (an image's vector), CODE, TIME, LATENT.
        positions_T: Position of each id in its sequence.
        num_codes: Codes that are learned; 0 unless the piece draws with codes.
        place: Role and index of the sample in its dataset.
        repeat: How often the step has the sample before, as it has more examples than the data.
    """

    ids_T: np.ndarray
    targets_T: np.ndarray
    kinds_T: np.ndarray
    positions_T: np.ndarray
    num_codes: int = 0
    place: tuple[str, int] = ("", 0)
    repeat: int = 0

    def __len__(self) -> int:
        """Return the number of positions."""
        return len(self.ids_T)

    @property
    def num_targets(self) -> int:
        """Tokens and codes that are learned."""
        return int(np.count_nonzero(self.targets_T != IGNORED)) + self.num_codes

    @property
    def draws(self) -> bool:
        """True if an image is drawn."""
        return bool(np.any(self.kinds_T >= CODE))

    @property
    def sees(self) -> bool:
        """True if an image is asked about."""
        return bool(np.any(self.kinds_T == SEEN))


def answer_piece(
    encoder: PromptEncoder,
    turns: Sequence[tuple[str, str]],
    num_image_tokens: int,
    place: tuple[str, int] = ("", 0),
) -> Piece:
    """Return a conversation, whose answers alone are learned.

    It is split where the runtime splits it: each answer follows a prompt that ends with the
    assistant's role.

    Args:
        encoder: Encoder of prompts.
        turns: Questions with their answers. The image, if any, comes with the first.
        num_image_tokens: Placeholders of the image; 0 for none.
        place: Role and index of the sample.

    Raises:
        PromptError: A question or an answer is empty or holds a token of the model.
    """
    parts: list[np.ndarray] = []
    learned: list[np.ndarray] = []
    before: list[Turn] = []
    for question, answer in turns:
        shown = 1 if num_image_tokens and not before else 0
        open_turn = Turn(message=question, num_images=shown)
        prompt = encoder.conversation([*before, open_turn], num_image_tokens)
        if before:  # what follows the last answer's end
            prompt = prompt[np.flatnonzero(prompt == encoder.ids["eos"])[-1] + 1 :]
        before.append(Turn(message=question, num_images=shown, answer=answer))
        ended = encoder.answer(answer.strip())
        parts += [prompt, ended]
        learned += [np.zeros(len(prompt), bool), np.ones(len(ended), bool)]
    encoder.conversation([*before, Turn(message="-")], num_image_tokens)  # checks the last answer
    return _of_text(np.concatenate(parts), np.concatenate(learned), encoder, place)


def text_piece(encoder: PromptEncoder, text: str, place: tuple[str, int] = ("", 0)) -> Piece:
    """Return a plain text, all of which is learned.

    Args:
        encoder: Encoder of prompts.
        text: The text.
        place: Role and index of the sample.
    """
    ids_T = np.concatenate([[encoder.ids["bos"]], encoder.answer(text.strip())])
    return _of_text(ids_T, np.ones(len(ids_T), bool), encoder, place)


def code_piece(
    encoder: PromptEncoder,
    caption: str,
    num_codes: int,
    *,
    dropped: bool = False,
    place: tuple[str, int] = ("", 0),
) -> Piece:
    """Return a caption and room for the codes of its image; the codes are learned.

    Args:
        encoder: Encoder of prompts.
        caption: The caption.
        num_codes: Codes per image.
        dropped: True to replace the caption by padding.
        place: Role and index of the sample.

    Raises:
        PromptError: The caption is empty or holds a token of the model.
    """
    prompt = encoder.generation(caption)
    if dropped:
        prompt = encoder.unconditional(prompt)
    room = num_codes - 1  # the last code is learned and never read
    ids_T = np.concatenate([prompt, np.zeros(room, np.int64)])
    return Piece(
        ids_T=ids_T,
        targets_T=np.full(len(ids_T), IGNORED),
        kinds_T=np.repeat([TEXT, CODE], [len(prompt), room]).astype(np.uint8),
        positions_T=np.arange(len(ids_T)),
        num_codes=num_codes,
        place=place,
    )


def flow_piece(
    encoder: PromptEncoder,
    caption: str,
    num_tokens: int,
    *,
    dropped: bool = False,
    place: tuple[str, int] = ("", 0),
) -> Piece:
    """Return a caption and room for a timestep and a noisy latent, whose velocity is learned.

    A dropped caption leaves its positions out: nothing attends to them, and what follows keeps its
    own positions, as in the unconditional rows that are drawn with.

    Args:
        encoder: Encoder of prompts.
        caption: The caption.
        num_tokens: Tokens per latent.
        dropped: True to leave the caption out.
        place: Role and index of the sample.

    Raises:
        PromptError: The caption is empty or holds a token of the model.
    """
    prompt = encoder.generation(caption)[:-1]  # the timestep stands in the last one's place
    kept = prompt[:1] if dropped else prompt
    follows = len(prompt) + np.arange(1 + num_tokens)
    ids_T = np.concatenate([kept, np.zeros(1 + num_tokens, np.int64)])
    return Piece(
        ids_T=ids_T,
        targets_T=np.full(len(ids_T), IGNORED),
        kinds_T=np.repeat([TEXT, TIME, LATENT], [len(kept), 1, num_tokens]).astype(np.uint8),
        positions_T=np.concatenate([np.arange(len(kept)), follows]),
        place=place,
    )


def _of_text(
    ids_T: np.ndarray, learned_T: np.ndarray, encoder: PromptEncoder, place: tuple[str, int]
) -> Piece:
    """Return a piece of which each learned token is the target of the position before it."""
    targets_T = np.full(len(ids_T), IGNORED)
    targets_T[:-1] = np.where(learned_T[1:], ids_T[1:], IGNORED)
    seen = ids_T == encoder.placeholder
    return Piece(
        ids_T=ids_T[:-1],
        targets_T=targets_T[:-1],
        kinds_T=np.where(seen, SEEN, TEXT).astype(np.uint8)[:-1],
        positions_T=np.arange(len(ids_T) - 1),
        place=place,
    )
