"""Tables of recipes besides their stages, and the checked numbers that they are made of."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1, le=2**40)]
Batch = Annotated[int, Field(ge=1, le=2**20)]
Part = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Byte = Annotated[int, Field(ge=0, le=255)]


class Section(BaseModel):
    """A table of the file. Unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Timesteps(Section):
    """How JanusFlow's timesteps are drawn: t = sigmoid(mean + std * normal)."""

    mean: Annotated[float, Field(ge=-10, le=10)]
    std: Annotated[float, Field(gt=0, le=10)]


class Repa(Section):
    """REPA: the language model's features of a noisy latent, drawn to SigLIP's of the clean image.

    Attributes:
        layer: Layer of the language model whose output is compared, from 1.
        hidden: Width of the two hidden layers of the projector.
        weight: Weight of the loss; the papers have none, so 1.
    """

    layer: Positive
    hidden: Annotated[int, Field(ge=1, le=2**16)]
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0


class Deviation(Section):
    """What a small model's recipe does differently from the paper's, and why."""

    what: str
    paper: str
    reason: str


class Schedule(Section):
    """How long and how fast a part learns before the stages.

    Attributes:
        role: Role whose images it learns from.
        steps: Steps.
        batch_size: Images per step.
        learning_rate: Learning rate after warm-up.
        warmup_steps: Steps in which the rate rises linearly.
        decay_from: Part of the steps after which the rate falls to 0 by a cosine.
    """

    role: str = "generation"
    steps: Positive
    batch_size: Batch
    learning_rate: Rate
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    decay_from: Part = 0.4


class CodecTraining(Schedule):
    """Training of the VQ tokenizer, or of JanusFlow's autoencoder.

    Attributes:
        autoencoder_steps: Of the VQ tokenizer: steps without its codebook, before ``steps``.
        plain: Of the autoencoder: colours of plain backgrounds, of 255, whose cells are taught one
            latent each. A VQ tokenizer keeps its own with its sizes, ``model.codebook``.
    """

    autoencoder_steps: Annotated[int, Field(ge=0, le=2**40)] = 0
    plain: tuple[tuple[Byte, Byte, Byte], ...] = ()


class VisionTraining(Schedule):
    """Training of the vision encoder.

    Attributes:
        learns_from: "captions", of whole images, as SigLIP; or "boxes", which say what each part of
            an image shows. Small things beside each other are told apart by boxes alone.
        optimizer: "adamw", or "muon": Muon for the matrices of the encoder's blocks.
    """

    learns_from: Literal["captions", "boxes"] = "captions"
    optimizer: Literal["adamw", "muon"] = "adamw"


class Pretraining(Section):
    """What is trained before the stages, unless a source gives it.

    The papers take all three from others: DeepSeek-LLM, SigLIP and LlamaGen's tokenizer.

    Attributes:
        codec: The VQ tokenizer, or the autoencoder.
        vision: The vision encoder.
    """

    codec: CodecTraining | None = None
    vision: VisionTraining | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.codec is None and self.vision is None:
            raise ValueError("pretraining has neither codec nor vision")
        return self
