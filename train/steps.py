"""A step of a training, laid out: its examples, packed into rows, and who computes which.

All of it follows from the recipe, the data and the step's number. Every process lays out the whole
step from texts alone and then reads the images of its own rows.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from janus_edge.data.errors import BrokenSample
from janus_edge.data.order import Order
from janus_edge.data.samples import Sample
from janus_edge.model.config import JanusConfig, JanusFlowConfig
from janus_edge.runtime.errors import OptionError, PromptError
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.train.mixing import Share, shares_at
from janus_edge.train.packing import pack
from janus_edge.train.pieces import Piece, answer_piece, code_piece, flow_piece, text_piece
from janus_edge.train.recipe import ROLES, Recipe, Stage


class Texts(Protocol):
    """What a step needs of the samples of a role (``data/source.py``)."""

    def __len__(self) -> int:
        """Return how many examples an epoch has."""

    def number(self, place: int) -> int:
        """Return which sample an epoch has at a place, before it is shuffled."""

    def sample(self, i: int) -> Sample:
        """Return the text of a sample; raise BrokenSample."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A step, laid out.

    Attributes:
        pieces: The examples.
        rows: Indices of each row's pieces.
        skipped: Why an example was left out, by its name.
    """

    pieces: tuple[Piece, ...]
    rows: tuple[tuple[int, ...], ...]
    skipped: Mapping[str, str]

    @property
    def num_codes(self) -> int:
        """Codes that are learned."""
        return sum(piece.num_codes for piece in self.pieces)

    @property
    def num_tokens(self) -> int:
        """Tokens that are learned, besides codes."""
        return sum(piece.num_targets for piece in self.pieces) - self.num_codes

    @property
    def num_drawn(self) -> int:
        """Images that are drawn."""
        return sum(piece.draws for piece in self.pieces)

    def of(self, rank: int, world: int, rows_at_once: int) -> list[list[tuple[int, ...]]]:
        """Return the rows that a process computes, some at a time.

        All processes have as many turns, as they exchange gradients in each, and as many rows in a
        turn; one with fewer rows has an empty one. No turn has more rows than the step needs.

        Args:
            rank: Number of the process.
            world: Number of processes.
            rows_at_once: Most rows that a device computes at once.
        """
        each = -(-len(self.rows) // world)
        turns = -(-each // rows_at_once)
        at_once = -(-each // turns)
        own = [*self.rows[rank::world], *[()] * (turns * at_once)]
        return [own[i * at_once : (i + 1) * at_once] for i in range(turns)]


def lay_out(
    recipe: Recipe, stage: Stage, step: int, data: Mapping[str, Texts], encoder: PromptEncoder
) -> Layout:
    """Return the layout of a step.

    Args:
        recipe: The recipe.
        stage: One of its stages.
        step: Number of the step in the stage, from 0.
        data: The dataset's samples by role.
        encoder: Encoder of prompts.
    """
    pieces: list[Piece] = []
    skipped: dict[str, str] = {}
    before: Counter[tuple[str, int]] = Counter()
    for share in shares_at(stage, step):
        for index in samples_of(recipe, stage, share, data[share.role]):
            place = (share.role, int(index))
            repeat = before[place]
            before[place] += 1
            rng = random_of(recipe, stage, step, place, repeat)
            try:
                piece = _piece(recipe, data[share.role].sample(int(index)), place, rng, encoder)
                if len(piece) > recipe.context:
                    raise BrokenSample(
                        "/".join(map(str, place)),
                        f"{len(piece)} tokens; the recipe's context has {recipe.context}",
                    )
            except BrokenSample as error:
                skipped[error.name] = error.reason
            except PromptError as error:
                skipped[f"{share.role} {index}"] = str(error)
            else:
                pieces.append(dataclasses.replace(piece, repeat=repeat))
    rows = pack([len(piece) for piece in pieces], recipe.context)
    return Layout(pieces=tuple(pieces), rows=tuple(map(tuple, rows)), skipped=skipped)


def samples_of(recipe: Recipe, stage: Stage, share: Share, role: Texts) -> Sequence[int]:
    """Return which samples of a role a step takes: the next ones of an endless shuffled order."""
    if share.count == 0:
        return ()
    seed = (recipe.seed, recipe.stages.index(stage), list(ROLES).index(share.role))
    order = Order(len(role), int(np.random.SeedSequence(seed).generate_state(1)[0]))
    places = order.indices(share.start, share.start + share.count)
    return [role.number(int(place)) for place in places]


def random_of(
    recipe: Recipe, stage: Stage, step: int, place: tuple[str, int], repeat: int = 0
) -> np.random.Generator:
    """Return the source of an example's random numbers in a step.

    Args:
        recipe: The recipe.
        stage: The stage.
        step: Number of the step.
        place: Role and index of the sample.
        repeat: How often the step has the sample before.
    """
    role, index = place
    number, kind = recipe.stages.index(stage), list(ROLES).index(role)
    again = (repeat,) if repeat else ()  # the first has the numbers of recorded runs
    return np.random.default_rng((recipe.seed, number, step, kind, index, *again))


def _piece(
    recipe: Recipe,
    sample: Sample,
    place: tuple[str, int],
    rng: np.random.Generator,
    encoder: PromptEncoder,
) -> Piece:
    """Return the piece of a sample, as its role learns it."""
    config = recipe.config
    if ROLES[place[0]] == "draw":
        if not sample.captions or not sample.has_image:
            raise BrokenSample(sample.name, "no image with a caption to draw")
        caption = sample.captions[int(rng.integers(len(sample.captions)))]
        dropped = bool(rng.random() < recipe.dropped_conditions)
        if isinstance(config, JanusFlowConfig):
            tokens = latent_grid(recipe) ** 2
            return flow_piece(encoder, caption, tokens, dropped=dropped, place=place)
        return code_piece(encoder, caption, config.num_codes, dropped=dropped, place=place)
    seen = config.vision.num_patches if sample.has_image else 0
    if sample.turns:
        turns = [(turn.user, turn.assistant) for turn in sample.turns]
        return answer_piece(encoder, turns, seen, place)
    if sample.captions and seen:
        caption = sample.captions[int(rng.integers(len(sample.captions)))]
        return answer_piece(encoder, [(DESCRIBE, caption)], seen, place)
    if sample.text is None:
        raise BrokenSample(sample.name, "no text")
    return text_piece(encoder, sample.text, place)


# What is asked of an image that comes with a caption alone.
DESCRIBE = "Describe the image."


def latent_grid(recipe: Recipe) -> int:
    """Return the tokens along a side of a JanusFlow's latent."""
    config, vae = recipe.config, recipe.vae_config
    assert isinstance(config, JanusFlowConfig) and vae is not None
    return config.vision.image_size // (vae.stride * config.flow.patch)


def check_context(recipe: Recipe) -> None:
    """Raise OptionError if a row has no room for an image and a text."""
    if recipe.context - image_tokens(recipe) < 2:
        raise OptionError(
            f"recipe {recipe.name}: context is {recipe.context}, and an image alone takes "
            f"{image_tokens(recipe)} tokens; give more"
        )


def image_tokens(recipe: Recipe) -> int:
    """Return the tokens of an image that is asked about or drawn, whichever are more."""
    config = recipe.config
    if isinstance(config, JanusConfig):
        return max(config.vision.num_patches, config.num_codes)
    return max(config.vision.num_patches, 1 + latent_grid(recipe) ** 2)
