"""Saved states of a training: torch.distributed.checkpoint, whole or not at all.

A state is a folder ``STAGE-STEP`` under the run's ``states``. It is written beside its place and
renamed when every process is done, so that one that is there is complete. The last two stay. Any
number of processes resumes what any other number has saved.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.optim import Optimizer

from janus_edge.runtime.errors import JanusEdgeError
from janus_edge.runtime.files import sync, sync_folder
from janus_edge.runtime.stop import Stopped
from janus_edge.train.world import World

_NAME = re.compile(r"^([a-z0-9][a-z0-9-]{0,40})-(\d{9})$")
_PART = ".part"  # of a folder that is being written
KEPT = 2


class TrainingError(JanusEdgeError):
    """A training cannot go on."""


@dataclass(frozen=True)
class Place:
    """Where a training is.

    Attributes:
        stage: Number of the stage in the recipe.
        step: Steps of the stage that are done.
        path: The state's folder.
    """

    stage: int
    step: int
    path: Path


def saved(folder: Path, stages: list[str]) -> list[Place]:
    """Return the complete states in a folder, the oldest first.

    Args:
        folder: The run's ``states``.
        stages: Names of the recipe's stages, in order.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.match(path.name)
        if match and match[1] in stages and (path / ".metadata").is_file():
            found.append(Place(stages.index(match[1]), int(match[2]), path))
    return sorted(found, key=lambda place: (place.stage, place.step))


def save(
    folder: Path,
    stages: list[str],
    place: tuple[int, int],
    content: dict[str, Any],
    world: World,
) -> None:
    """Save a state, then remove all but the last two.

    Args:
        folder: The run's ``states``.
        stages: Names of the recipe's stages, in order.
        place: Number of the stage, and steps of it that are done.
        content: What ``content_of`` returned.
        world: The processes; all call this.

    Raises:
        OSError: It cannot be written; the states before stay.
        Stopped: The user stopped it; the states before stay.
    """
    stage, step = place
    path = folder / f"{stages[stage]}-{step:09d}"
    part = path.with_name(path.name + _PART)
    if world.leads:
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir(parents=True)
    world.wait()
    with _as_ours(), warnings.catch_warnings():  # it warns that there is one process
        warnings.simplefilter("ignore")
        dcp_save(content, checkpoint_id=part, no_dist=world.size == 1)
    world.wait()
    if world.leads:
        sync(part)
        shutil.rmtree(path, ignore_errors=True)
        part.replace(path)
        sync_folder(folder)
        _prune(folder, stages)
    world.wait()


@contextmanager
def _as_ours() -> Iterator[None]:
    """Raise what stopped a save or a load: PyTorch's own error is no ``Exception``."""
    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        for cause in causes:
            if isinstance(cause, Stopped | OSError):
                raise cause from None
        first = str(causes[0]).partition("\n")[0]
        raise TrainingError(f"PyTorch's checkpoint: {first}; what was saved before stays") from None


def _prune(folder: Path, stages: list[str]) -> None:
    """Remove all states but the last two, and what killed processes left of others."""
    for old in saved(folder, stages)[:-KEPT]:
        old.path.replace(old.path.with_name(old.path.name + _PART))  # never half a state
    for path in folder.iterdir():
        match = _NAME.match(path.name.removesuffix(_PART))
        is_whole = path.name.removesuffix(_PART) == path.name and (path / ".metadata").is_file()
        if match and match[1] in stages and not is_whole:
            shutil.rmtree(path)


def content_of(
    trainee: nn.Module, optimizers: Sequence[Optimizer], mean: dict[str, Tensor]
) -> dict[str, Any]:
    """Return what a state holds: weights, the optimizers' moments, the mean of the weights."""
    content: dict[str, Any] = {"model": get_model_state_dict(trainee), "mean": mean}
    if optimizers:
        content["optimizer"] = get_optimizer_state_dict(trainee, optimizers)
    return content


def resume(
    place: Place, trainee: nn.Module, optimizers: Sequence[Optimizer], mean: dict[str, Tensor]
) -> None:
    """Load a state, in place.

    Args:
        place: The state.
        trainee: The model, prepared as it is trained.
        optimizers: The optimizers; none if their moments are not needed.
        mean: The mean of the weights, as it starts.

    Raises:
        TrainingError: The state is damaged.
    """
    content = content_of(trainee, optimizers, mean)
    try:
        with _as_ours(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp_load(content, checkpoint_id=place.path, no_dist=not dist.is_initialized())
    except Exception as error:  # what PyTorch raises for damaged files has no common kind
        first = str(error).partition("\n")[0]
        raise TrainingError(
            f"{place.path}: this state cannot be read ({first}); remove this folder, and the run "
            "goes on from the state before"
        ) from None
    set_model_state_dict(trainee, content["model"])
    if optimizers:
        set_optimizer_state_dict(trainee, optimizers, content["optimizer"])
    with torch.no_grad():
        for name, value in content["mean"].items():
            mean[name].copy_(value)
