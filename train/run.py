"""Run a recipe: from data and a start to a checkpoint, resumable at any moment.

One process, or several under ``torchrun``, run the same function.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from janus_edge.data.errors import BrokenSample
from janus_edge.data.order import Order
from janus_edge.data.source import Role, open_source
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint, Model, save_checkpoint
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.files import private_folder
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.train.adapters import add_adapters
from janus_edge.train.codec import kept_codes, start_digest, take_codec
from janus_edge.train.engine import Run, Settings, first_mean, stages_left, train_stage
from janus_edge.train.finished import CHECKPOINT, finished_folder, gathered
from janus_edge.train.images import Encoded, Loader
from janus_edge.train.loop import is_bf16_fast
from janus_edge.train.losses import FlowLosses, JanusLosses
from janus_edge.train.pretraining import learned_first, pretrain
from janus_edge.train.recipe import Recipe
from janus_edge.train.report import Log
from janus_edge.train.run_folder import RECIPE, claim
from janus_edge.train.samples import Probe, probe_of, take_samples
from janus_edge.train.start import Sources, prompt_note, started
from janus_edge.train.states import resume, saved
from janus_edge.train.steps import check_context, lay_out
from janus_edge.train.summary import write_report
from janus_edge.train.world import World, joined, prepare

MOST_TEXTS = 50_000  # samples per role that a tokenizer is made from
NUM_SAMPLES = 256  # images that the checkpoint's preview is fitted to


@dataclass(frozen=True, kw_only=True)
class How:
    """How a run is computed.

    Attributes:
        settings: Of the loop.
        lora: Rank of LoRA adapters in place of the language model's own weights; 0 for none.
        checkpointing: True to keep only the input of each layer for the backward pass.
        compiled: True to compile the layers.
    """

    settings: Settings
    lora: int = 0
    checkpointing: bool = False
    compiled: bool = False


def train_recipe(
    recipe: Recipe,
    data: Path,
    folder: Path,
    sources: Sources,
    how: How,
    show: Callable[[str], None],
) -> Path:
    """Train and return the folder of the finished checkpoint.

    Args:
        recipe: The recipe.
        data: Dataset folder, or the TOML file that names its parts.
        folder: Folder of the run. A run that is there goes on.
        sources: What the model starts from.
        how: How it is computed.
        show: Called with lines for the user, in the leading process.

    Raises:
        OptionError: The data lack a role, the start does not fit, or the folder holds another run.
        CheckpointError: A start cannot be read.
        OSError: The folder cannot be written.
    """
    with joined() as world, _folder_of_a_run(folder):
        # one training at a time
        alone = private_folder(folder, target="states") if world.leads else nullcontext()
        with alone, _attention(world.device):
            return _train(recipe, data, folder, sources, how, world, show)


@contextmanager
def _folder_of_a_run(folder: Path) -> Iterator[None]:
    """Make a folder; if it is new and stays empty, as after a start that is refused, remove it."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """Choose how attention is computed.

    On a CPU, the backward pass of plain attention is twice as fast as that of flash attention.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _train(
    recipe: Recipe,
    data: Path,
    folder: Path,
    sources: Sources,
    how: How,
    world: World,
    show: Callable[[str], None],
) -> Path:
    source = open_source(data)
    dataset = source.roles
    check_roles(recipe, dataset)
    check_context(recipe)
    check_pretraining(recipe, sources, dataset)
    fast = how.settings.bf16 and is_bf16_fast(world.device)
    how = dataclasses.replace(how, settings=dataclasses.replace(how.settings, bf16=fast))
    checkpoint = started(recipe, sources, texts_of(dataset))
    # only now: a start that does not fit must not bind the folder to its words
    start = start_digest(sources, checkpoint)
    claim(folder, recipe, {"data": source.digest, "lora": how.lora, "start": start}, world)
    if note := prompt_note(recipe, checkpoint):
        show(note)
    log = Log(folder, world, show)
    pretrain(recipe, sources, checkpoint, dataset, folder, world, log.skip)
    encoder = PromptEncoder.load(checkpoint.tokenizer_json, recipe.template)
    model = checkpoint.model
    encode, codec = take_codec(model, world.device)
    trainee = _prepared(model, recipe, how, world)
    kept = kept_codes(recipe, dataset, codec)
    shards = {name: role.shards for name, role in dataset.items()}
    run = Run(
        recipe=recipe,
        trainee=trainee,
        lay_out=lambda stage, step: lay_out(recipe, stage, step, dataset, encoder),
        load=Loader(recipe, shards, encode, kept, log.skip).load,
        world=world,
        folder=folder,
        settings=how.settings,
        report=log.line,
        skip=log.skip,
        mean=first_mean(trainee, recipe),
        adapters_only=how.lora > 0,
    )
    if how.settings.samples_every:
        probe = probe_of(recipe, dataset, encoder)
        sampling = checkpoint.sampling
        run.sample = partial(_sample, run, codec, encoder, probe, sampling, log)
    _train_stages(run, log)
    return _written(run, checkpoint, codec, kept)


def _prepared(model: Model, recipe: Recipe, how: How, world: World) -> JanusLosses | FlowLosses:
    """Return what is trained, on its device, spread over the processes."""
    if how.lora:
        torch.manual_seed(recipe.seed)  # of the adapters
        add_adapters(model, how.lora)
    trainee = trainee_of(model, recipe).to(world.device)
    prepare(
        trainee,
        model.language_model.model.layers,
        world,
        bf16=how.settings.bf16,
        checkpointing=how.checkpointing,
        compiled=how.compiled,
    )
    return trainee


def _sample(
    run: Run,
    codec: nn.Module,
    encoder: PromptEncoder,
    probe: Probe,
    sampling: Mapping[str, Any],
    log: Log,
    stage: str,
    step: int,
) -> None:
    """Draw and answer with the model as it is; all processes call this."""
    now = gathered(run, codec)
    if now is not None:
        found = take_samples(now.to(run.world.device), encoder, probe, sampling)
        log.samples(stage, step, *found)
    run.world.wait()


def _train_stages(run: Run, log: Log) -> None:
    """Train the stages that are left, from the last saved state on."""
    last = next(iter(reversed(saved(run.folder / "states", run.stages))), None)
    log.begin(last, {stage.name: stage.steps for stage in run.recipe.stages})
    left = list(stages_left(run.recipe, last))
    for number, start in left:
        train_stage(run, number, start)
    if last is not None and not left:  # all was done; only the checkpoint is written again
        resume(last, run.trainee, (), run.mean)
    log.end()


def check_roles(recipe: Recipe, dataset: Mapping[str, Role]) -> None:
    """Raise OptionError if the data lack a role that a stage of the recipe takes."""
    needed = {role: stage.name for stage in reversed(recipe.stages) for role in stage.roles}
    if missing := sorted(role for role in needed if role not in dataset):
        raise OptionError(
            f"the data have no {' and no '.join(missing)}; stage {needed[missing[0]]} of "
            f"{recipe.name} takes {missing[0]}; build it: janus-edge data build SOURCE DATA --role "
            f"{missing[0]}, or take it out of the recipe's mixture"
        )


def check_pretraining(recipe: Recipe, sources: Sources, dataset: Mapping[str, Role]) -> None:
    """Raise OptionError if the data lack what is learned from before the stages."""
    codec, vision = learned_first(recipe, sources)
    for name, by in (("codec", codec), ("vision", vision)):
        if by is not None and by.role not in dataset:
            raise OptionError(
                f"the data have no {by.role}, from which pretraining.{name} learns; build it: "
                f"janus-edge data build SOURCE DATA --role {by.role}, or name another role"
            )
    if vision is not None and not _some(dataset[vision.role], vision.learns_from):
        raise OptionError(
            f"{vision.role}: no sample that was tried has {vision.learns_from}, from which "
            "pretraining.vision learns; add them (docs/data.md), name another role, or change "
            "learns_from"
        )


def _some(role: Role, what: str) -> bool:
    """Return whether some of 256 samples have captions or boxes."""
    for i in np.linspace(0, len(role.shards) - 1, 256).astype(int):
        with suppress(BrokenSample):
            if getattr(role.shards.sample(int(i)), what):
                return True
    return False


def trainee_of(model: Model, recipe: Recipe) -> JanusLosses | FlowLosses:
    """Return what is trained: from packed rows to losses."""
    if isinstance(model, Janus):
        return JanusLosses(model)
    torch.manual_seed(recipe.seed + 1)  # of REPA's projector
    return FlowLosses(model, recipe.repa)


def texts_of(dataset: Mapping[str, Role]) -> Iterator[str]:
    """Yield texts of a dataset as they stand after a role: what a tokenizer is made from."""
    for shards in (role.shards for role in dataset.values()):
        for index in Order(len(shards), 0).indices(0, min(len(shards), MOST_TEXTS)):
            with suppress(BrokenSample):
                sample = shards.sample(int(index))
                turns = [text for turn in sample.turns for text in (turn.user, turn.assistant)]
                yield from (f" {text}" for text in (*sample.captions, *turns, sample.text or ""))


def _written(
    run: Run,
    checkpoint: Checkpoint,
    codec: nn.Module,
    kept: Mapping[str, Encoded],
) -> Path:
    """Write the finished model to ``FOLDER/checkpoint``, and the report; return that folder."""
    folder = run.folder / CHECKPOINT
    done = gathered(run, codec)
    if done is None:
        return folder
    drawn = [each for role in sorted(kept) if len(each := kept[role].first(NUM_SAMPLES))]
    samples = drawn[0] if drawn else checkpoint.samples
    prompt = run.recipe.prompt
    made = dataclasses.replace(checkpoint, model=done, prompt=prompt, samples=samples)
    with finished_folder(run.folder) as part:
        save_checkpoint(made, part, torch.float16)
        for name in (RECIPE, "log.jsonl"):
            shutil.copy(run.folder / name, part / name)
    write_report(run.folder, run.recipe)
    return folder
