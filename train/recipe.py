"""Recipes: what a training does, as data. Read from TOML, checked as a whole before anything runs.

``train/recipes`` has one file per published model. docs/recipes.md describes every key.

Source: arXiv 2410.13848, 2501.17811, 2411.07975.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from janus_edge.model.config import JanusConfig, JanusFlowConfig
from janus_edge.model.encoders import check_encoder
from janus_edge.model.numbers import with_tuples
from janus_edge.model.vae import VAEConfig
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.manifest import REFERENCE
from janus_edge.runtime.prompt import PromptTemplate
from janus_edge.train.schedule import rate_at
from janus_edge.train.sections import (
    Batch,
    Deviation,
    Part,
    Positive,
    Pretraining,
    Rate,
    Repa,
    Section,
    Timesteps,
    VisionTraining,
)

FOLDER = Path(__file__).parent / "recipes"

# Parts of a model by family: the names of their parameters begin so.
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "janus": {
        "understanding_encoder": ("vision_model.",),
        "understanding_aligner": ("aligner.",),
        "generation_aligner": ("gen_aligner.", "gen_embed."),
        "image_head": ("gen_head.",),
        "language_model": ("language_model.",),
    },
    "janusflow": {
        "understanding_encoder": ("vision_und_enc_model.",),
        "understanding_aligner": ("vision_und_enc_aligner.", "beg_of_und_embed"),
        "generation_encoder": ("vision_gen_enc_model.", "vision_gen_enc_aligner."),
        "generation_decoder": ("vision_gen_dec_",),
        "language_model": ("language_model.",),
    },
}
# Kinds of examples by name, and what is learned from them.
ROLES = {
    "understanding": "answer",
    "text": "answer",
    "generation": "draw",
    "class_prompts": "draw",  # class names as prompts, such as ImageNet's
}


class Phase(Section):
    """A part of a stage with one ratio of the kinds of examples.

    Attributes:
        steps: Steps of the phase.
        mixture: Ratio by role, as the papers write it: {"understanding": 2, "text": 3, ...}.
    """

    steps: Positive
    mixture: dict[str, Annotated[int, Field(ge=1, le=1000)]]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.mixture or (unknown := sorted(set(self.mixture) - set(ROLES))):
            wrong = ", ".join(unknown) if self.mixture else "none"
            raise ValueError(f"mixture has {wrong}; its names are {', '.join(ROLES)}")
        return self


class Stage(Section):
    """A stage: what is trained, at which rate, on what.

    Attributes:
        name: Name of the stage, unique in the recipe.
        steps: Steps, as many as its phases have together.
        batch_size: Examples per step, of all roles together.
        learning_rate: Rate after warm-up.
        schedule: "constant", or "cosine": it falls to 0 over the stage, from ``decay_from`` on.
        decay_from: Part of the stage after which a cosine begins.
        warmup_steps: Steps in which the rate rises linearly.
        weight_decay: The optimizers'.
        balance: A Janus's losses: "tokens", each token and code counts alike; "examples", tasks
            count by their number of examples.
        train: Names of ``PARTS`` that learn; all others are frozen.
        phases: What the steps are trained on, in order.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    steps: Positive
    batch_size: Batch
    learning_rate: Rate
    schedule: Literal["constant", "cosine"] = "constant"
    decay_from: Part = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    balance: Literal["tokens", "examples"] = "tokens"
    train: tuple[str, ...]
    phases: tuple[Phase, ...]

    @model_validator(mode="after")
    def _sums(self) -> Self:
        total = sum(phase.steps for phase in self.phases)
        if total != self.steps:
            raise ValueError(f"stage {self.name} has {self.steps} steps, its phases {total}")
        if not self.train:
            raise ValueError(f"stage {self.name} trains nothing")
        return self

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        return rate_at(
            step,
            steps=self.steps,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_from=self.decay_from if self.schedule == "cosine" else 1.0,
        )

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of all phases, each once."""
        return tuple(dict.fromkeys(role for phase in self.phases for role in phase.mixture))


class Recipe(Section):
    """A recipe.

    Attributes:
        name: Name of the recipe.
        family: "janus" or "janusflow".
        seed: Seed of initial weights, order, noise and dropped captions.
        context: Tokens per packed row.
        dropped_conditions: Part of the captions that are replaced by padding, for guidance.
        optimizer: "adamw", or "muon": Muon for the matrices of the language model's layers, AdamW
            for all else.
        betas: AdamW's.
        clip: Largest norm of the gradient.
        ema: Part of the old mean of the weights that each step keeps; None for no mean.
            Adapters have none.
        timesteps: JanusFlow's timesteps.
        repa: JanusFlow's REPA; None leaves it out.
        prompt: Roles and system prompt.
        model: Sizes, as ``JanusConfig`` or ``JanusFlowConfig`` reads them.
        vae: Sizes of JanusFlow's autoencoder.
        sampling: Settings that the checkpoint draws with, where they are not the family's.
        pretraining: Of a small model: what is trained before the stages; None for nothing.
        deviations: Of a small model: what differs from the paper.
        stages: The stages, in order.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,60}$")]
    family: Literal["janus", "janusflow"]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    context: Annotated[int, Field(ge=16, le=2**20)]
    dropped_conditions: Part
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[Part, Part]
    clip: Annotated[float, Field(gt=0)]
    ema: Part | None = None
    timesteps: Timesteps | None = None
    repa: Repa | None = None
    prompt: dict[str, str]
    model: dict[str, Any]
    vae: dict[str, Any] | None = None
    pretraining: Pretraining | None = None
    sampling: dict[str, int | float | str] = Field(default_factory=dict)
    deviations: tuple[Deviation, ...] = ()
    stages: tuple[Stage, ...]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        known, names = PARTS[self.family], [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError("stages need names of their own, and at least one stage")
        for stage in self.stages:
            if unknown := sorted(set(stage.train) - set(known)):
                raise ValueError(
                    f"stage {stage.name} trains {', '.join(unknown)}; {self.family} has "
                    f"{', '.join(known)}"
                )
        of_flow = {"timesteps": self.timesteps, "vae": self.vae}
        for name, section in of_flow.items():
            if (section is None) == (self.family == "janusflow"):
                raise ValueError(f"{name} goes with the family janusflow, and it with {name}")
        if self.repa is not None and self.family != "janusflow":
            raise ValueError("repa goes with the family janusflow")
        layers = self.config.language.num_hidden_layers
        if self.repa is not None and self.repa.layer > layers:
            raise ValueError(f"repa.layer is {self.repa.layer}; the model has {layers} layers")
        codec = self.pretraining and self.pretraining.codec
        if codec and codec.plain and self.family == "janus":
            raise ValueError("pretraining.codec.plain is a VAE's; a Janus has model.codebook.plain")
        _ = self.template, self.vae_config, self.settings
        check_encoder(self.config)
        if self.pretraining is not None and self.pretraining.vision is not None:
            self._check_vision(self.pretraining.vision)
        return self

    def _check_vision(self, plan: VisionTraining) -> None:
        vision = self.config.vision
        if vision.encoder == "codes":
            raise ValueError("pretraining.vision goes with an encoder that learns by itself")
        along = vision.image_size // vision.patch_size
        if plan.learns_from == "boxes" and vision.width <= 2 * along:
            raise ValueError(f"boxes of pretraining.vision need a vision.width above {2 * along}")

    @cached_property  # read for every example
    def config(self) -> JanusConfig | JanusFlowConfig:
        """The model's sizes."""
        kind = JanusConfig if self.family == "janus" else JanusFlowConfig
        return kind.from_dict(self.model)

    @cached_property  # read for every example
    def vae_config(self) -> VAEConfig | None:
        """Sizes of JanusFlow's autoencoder."""
        try:
            return None if self.vae is None else VAEConfig(**with_tuples(self.vae))
        except TypeError as error:
            raise ValueError(f"vae: {error}") from None

    @property
    def template(self) -> PromptTemplate:
        """Roles and system prompt."""
        try:
            return PromptTemplate(**self.prompt)
        except TypeError as error:
            raise ValueError(f"prompt: {error}") from None

    @property
    def settings(self) -> dict[str, Any]:
        """What the checkpoint draws with, all settings."""
        family = REFERENCE[self.family]
        return type(family).model_validate(family.model_dump() | self.sampling).model_dump()

    def prefixes(self, stage: Stage) -> tuple[str, ...]:
        """Return how the names of a stage's trained parameters begin."""
        return tuple(start for part in stage.train for start in PARTS[self.family][part])


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Return a recipe by the name of one that comes with the package, or from a TOML file.

    Raises:
        OptionError: There is none, or a key is unknown, missing or out of range. The message names
            the file and the key.
    """
    path = Path(name_or_path)
    if str(name_or_path) in recipe_names():
        path = FOLDER / f"{name_or_path}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text in UTF-8"
        raise OptionError(
            f"recipe {name_or_path}: {reason}; give a TOML file, or one of "
            f"{', '.join(recipe_names())}"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"recipe {path}: no valid TOML: {error}") from None
    try:
        return Recipe.model_validate(with_tuples(raw))
    except ValidationError as error:
        raise OptionError(f"recipe {path}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    """Return the first thing that is wrong: the key's place and what is wrong with it."""
    found = error.errors(include_url=False)
    unknown = (each for each in found if each["type"] == "extra_forbidden")
    first = next(unknown, found[0])  # a key that is missing may be one that is misspelt
    place = "".join(_places(first["loc"])).lstrip(".")
    words = {"extra_forbidden": "unknown key", "missing": "this key is missing"}
    what = words.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{place}: {what}" if place else what


def _places(loc: tuple[int | str, ...]) -> Iterator[str]:
    for each in loc:
        yield f"[{each}]" if isinstance(each, int) else f".{each}"
