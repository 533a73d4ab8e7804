"""Pre-training of what no source gives: the codec of images, and the vision encoder.

Both learn from the recipe's own data before the stages. A part that is finished is kept in the
run's folder and read back; one that was stopped goes on at its last saved step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from janus_edge.data.errors import BrokenSample
from janus_edge.data.order import Order
from janus_edge.data.samples import Sample
from janus_edge.data.source import Role
from janus_edge.data.views import box_in_crop, cropped
from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.janus import Janus
from janus_edge.model.vae import VAE
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.train.images import pixels
from janus_edge.train.initial import start_codes
from janus_edge.train.loop import Stage, run_stage
from janus_edge.train.norms import channels_first_norms
from janus_edge.train.patch_labels import Labelled, directions, patch_loss
from janus_edge.train.recipe import Recipe
from janus_edge.train.sections import CodecTraining, Schedule, VisionTraining
from janus_edge.train.siglip import SiglipTrainee, siglip_loss
from janus_edge.train.start import Sources
from janus_edge.train.vae import latent_scale, vae_loss
from janus_edge.train.varied import Boxes
from janus_edge.train.vq import TokenizerTrainee, autoencoder_loss, codebook_loss
from janus_edge.train.world import World

FOLDER = "pretraining"
Skip = Callable[[Mapping[str, str]], None]
_BY_MUON: dict[str, tuple[str, ...]] = {"adamw": (), "muon": ("blocks.",)}
_MOST_WITHOUT = 100  # steps in a row without what is learned from


def pretrain(
    recipe: Recipe,
    sources: Sources,
    checkpoint: Checkpoint,
    dataset: Mapping[str, Role],
    folder: Path,
    world: World,
    skip: Skip,
) -> None:
    """Train the codec and the vision encoder of a model, in place, where no source gives them.

    Args:
        recipe: The recipe; without ``pretraining`` nothing is done.
        sources: What the model started from.
        checkpoint: The model and its tokenizer.
        dataset: The data by role.
        folder: Folder of the run.
        world: The processes. Only one alone pre-trains.
        skip: Called with the names of samples that are left out, and why.

    Raises:
        OptionError: Several processes would have to pre-train.
        OutputError: The folder cannot be written; what was saved stays.
    """
    (codec, by), model = learned_first(recipe, sources), checkpoint.model
    if codec is None and by is None:
        return
    encoder = PromptEncoder.load(checkpoint.tokenizer_json, recipe.template)
    feed, place = Feed(recipe, dataset, encoder, skip), folder / FOLDER
    if codec is not None:
        if isinstance(model, Janus):
            tokenizer = model.gen_vision_model
            _once(place / "codec", tokenizer, world, partial(_train_vq, tokenizer, codec, feed))
            start_codes(model)
        else:
            _once(place / "codec", model.vae, world, partial(_train_vae, model.vae, codec, feed))
    if by is not None:
        sees = model.vision_model if isinstance(model, Janus) else model.vision_und_enc_model
        vectors = model.language_model.model.embed_tokens.weight
        _once(place / "vision", sees, world, partial(_train_vision, sees, by, feed, vectors))


def learned_first(
    recipe: Recipe, sources: Sources
) -> tuple[CodecTraining | None, VisionTraining | None]:
    """Return how the codec and the vision encoder are trained; None for one that a source gives.

    Args:
        recipe: The recipe.
        sources: What the model starts from.
    """
    plan = recipe.pretraining
    if plan is None or sources.checkpoint is not None:
        return None, None
    codec = plan.codec if sources.codec is None else None
    return codec, plan.vision if sources.vision is None else None


class Feed:
    """Images of a role in an endless shuffled order, with or without their captions."""

    def __init__(
        self, recipe: Recipe, dataset: Mapping[str, Role], encoder: PromptEncoder, skip: Skip
    ) -> None:
        """Keep where images come from.

        Args:
            recipe: Size of the images, and the seed of the order.
            dataset: The data by role.
            encoder: Encoder of captions.
            skip: Called with the names of samples that are left out, and why.
        """
        self.size, self.seed = recipe.config.vision.image_size, recipe.seed
        self.dataset, self.encoder, self.skip = dataset, encoder, skip
        self.width = recipe.config.vision.width
        self.patch = recipe.config.vision.patch_size
        self.vocab_size = recipe.config.language.vocab_size

    def tokens(self, text: str) -> list[int]:
        """Return a text's token ids, without an end."""
        return self.encoder.answer(text)[:-1].tolist()

    def images(self, role: str) -> Callable[[int, int], Tensor]:
        """Return what gives a step's images (B, 3, S, S)."""
        return lambda step, count: self._batch(role, step, count)[0]

    def captioned(self, role: str) -> Callable[[int, int], tuple[Tensor, list[list[int]]]]:
        """Return what gives a step's images, each with the token ids of one of its captions."""

        def of(step: int, count: int) -> tuple[Tensor, list[list[int]]]:
            found, samples = self._batch_with("captions", role, step, count)
            rng = np.random.default_rng((self.seed, step))
            chosen = [each.captions[int(rng.integers(len(each.captions)))] for each in samples]
            return found, [self.tokens(text) for text in chosen]

        return of

    def labelled(self, role: str) -> Labelled:
        """Return what gives a step's images that have boxes, and these, px of the image."""

        def of(step: int, count: int) -> tuple[Tensor, list[Boxes]]:
            found, samples = self._batch_with("boxes", role, step, count)
            return found, [sample.boxes for sample in samples]

        return of

    def _batch_with(
        self, what: str, role: str, step: int, count: int
    ) -> tuple[Tensor, list[Sample]]:
        """Return a step's images that have captions or boxes, and their samples."""
        for later in range(_MOST_WITHOUT):
            found, samples = self._batch(role, step + later, count)
            if kept := [i for i, sample in enumerate(samples) if getattr(sample, what)]:
                return found[kept], [samples[i] for i in kept]
        raise OptionError(f"{role}: the images of {_MOST_WITHOUT} steps in a row have no {what}")

    def _batch(self, name: str, step: int, count: int) -> tuple[Tensor, list[Sample]]:
        """Return a step's images and their samples; broken ones are left out and named."""
        role = self.dataset[name]
        order = Order(len(role), self.seed)
        found: list[Tensor] = []
        samples: list[Sample] = []
        for place in order.indices(step * count, (step + 1) * count):
            number = role.number(int(place))
            try:
                sample = role.sample(number)
                image = role.shards.image(number)
            except BrokenSample as error:
                self.skip({error.name: error.reason})
                continue
            found.append(pixels(cropped(image, self.size)))
            samples.append(_boxes_cropped(sample, image, self.size))
        if not found:
            raise OptionError(
                f"{name}: {count} samples in a row are broken; janus-edge data check DATA names "
                "them"
            )
        return torch.stack(found), samples


def _boxes_cropped(sample: Sample, image_HWC: np.ndarray, size: int) -> Sample:
    """Return a sample with its boxes as they lie in the cropped image."""
    height, width, _ = image_HWC.shape
    boxes = (replace(b, box=box_in_crop(b.box, height, width, size)) for b in sample.boxes)
    return replace(sample, boxes=tuple(boxes))


def _once(folder: Path, part: nn.Module, world: World, train: Callable[[Path], None]) -> None:
    """Train a part and keep its weights beside the folder of its states, or read them back."""
    path = folder.with_suffix(".safetensors")
    if not path.exists():
        if world.size > 1:
            raise OptionError(
                f"{path} is not there: pre-training runs in one process; run the same command "
                "without torchrun until stage 1 begins, then with it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        train(folder)
        with atomic_write(path) as partial:
            state = {key: value.cpu().contiguous() for key, value in part.state_dict().items()}
            save_file(state, partial)
    try:
        part.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError):
        raise OptionError(
            f"{path}: damaged, or of other sizes than the recipe's; remove it, and it is trained "
            "again"
        ) from None


def _train_vq(model: VQTokenizer, plan: CodecTraining, feed: Feed, folder: Path) -> None:
    """Train the VQ tokenizer: an autoencoder, then the codebook."""
    trainee = TokenizerTrainee(model)
    images = feed.images(plan.role)
    with channels_first_norms(model):
        _train_vq_stages(trainee, plan, images, folder)


def _train_vq_stages(
    trainee: TokenizerTrainee,
    plan: CodecTraining,
    images: Callable[[int, int], Tensor],
    folder: Path,
) -> None:
    parts, before = tuple(f"model.{name}" for name in _LEARNING), plan.autoencoder_steps
    if before:
        first = Stage(
            name="autoencoder",
            num_steps=before,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            warmup_steps=plan.warmup_steps,
            trainable=parts,
        )
        run_stage(trainee, first, autoencoder_loss(trainee, images, plan.batch_size), folder)
    loss = codebook_loss(trainee, images, plan.batch_size, before)
    run_stage(trainee, _stage("codebook", plan, parts), loss, folder)


# Of the VQ tokenizer, what gradients move; its codebook follows the latents.
_LEARNING = ("encoder", "quant_conv", "post_quant_conv", "decoder")


def _train_vae(vae: VAE, plan: CodecTraining, feed: Feed, folder: Path) -> None:
    """Train the autoencoder; its latents get unit variance by its own weights."""
    images, plain_K3 = feed.images(plan.role), torch.tensor(plan.plain).view(-1, 3) / 127.5 - 1
    loss = vae_loss(vae, images, plain_K3, plan.batch_size)
    run_stage(vae, _stage("vae", plan, ("",)), loss, folder)
    scale_latents(vae, latent_scale(vae, images) / vae.config.scaling_factor)


@torch.no_grad()
def scale_latents(vae: VAE, factor: float) -> None:
    """Multiply raw latents by a factor, in the weights before and after them.

    Args:
        vae: The autoencoder, changed in place; its images stay the same.
        factor: The factor.
    """
    channels = vae.config.latent_channels
    for value in (vae.quant_conv.weight, vae.quant_conv.bias):
        assert value is not None
        value[:channels] *= factor  # the means; then come the logarithms of the variances
    vae.post_quant_conv.weight /= factor


def _train_vision(
    encoder: nn.Module, plan: VisionTraining, feed: Feed, vectors_VH: Tensor, folder: Path
) -> None:
    """Train the vision encoder by captions, or by labelled boxes."""
    torch.manual_seed(feed.seed)
    stage = replace(_stage("vision", plan, ("",)), by_muon=_BY_MUON[plan.optimizer])
    if plan.learns_from == "boxes":
        direction = directions(vectors_VH, feed.tokens, feed.width - 2 * (feed.size // feed.patch))
        labelled = feed.labelled(plan.role)
        loss = patch_loss(encoder, labelled, plan.batch_size, feed.patch, direction, feed.seed)
        run_stage(encoder, stage, loss, folder)
        return
    trainee = SiglipTrainee(encoder, feed.width, feed.vocab_size)
    loss = siglip_loss(trainee, feed.captioned(plan.role), plan.batch_size)
    run_stage(trainee, stage, loss, folder)


def _stage(name: str, plan: Schedule, trainable: tuple[str, ...]) -> Stage:
    """Return a schedule as the training loop reads it."""
    return Stage(
        name=name,
        num_steps=plan.steps,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_steps,
        decay_from=plan.decay_from,
        trainable=trainable,
    )
