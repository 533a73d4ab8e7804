"""The training loop: any recipe's stage, on one process or many, resumable at any moment.

The loss of a step depends on the step's number alone, whatever the number of processes and
wherever the run was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from janus_edge.train.adapters import has_adapters, is_frozen
from janus_edge.train.loop import autocast, select_trainable
from janus_edge.train.optimizers import optimizers_of
from janus_edge.train.packing import Packed
from janus_edge.train.pieces import Piece
from janus_edge.train.recipe import Recipe, Stage
from janus_edge.train.states import Place, TrainingError, content_of, resume, save
from janus_edge.train.steps import Layout
from janus_edge.train.throughput import Meter, peak_of
from janus_edge.train.world import World, exchange_gradients, whole

Load = Callable[[Stage, int, list[list[Piece]]], Packed]
_LAYERS = (".language_model.", ".layers.")  # in the names of the matrices that Muon takes


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is computed; results do not depend on it but for rounding.

    Attributes:
        rows_at_once: Rows of ``context`` tokens that a device computes at once.
        bf16: True to compute in bf16.
        save_every_s: Seconds between saved states.
        log_every: Steps between lines of the log.
        samples_every: Steps between samples; 0 for none.
    """

    rows_at_once: int = 1
    bf16: bool = True
    save_every_s: float = 300
    log_every: int = 10
    samples_every: int = 0


@dataclass
class Run:
    """A training: what stays the same over its stages.

    Attributes:
        recipe: The recipe.
        trainee: From packed rows to sums of losses.
        lay_out: Lays out a stage's step.
        load: Loads rows of a step.
        world: The processes.
        folder: Folder of the run.
        settings: How it is computed.
        report: Called with each line of the log.
        skip: Called with the names of samples that are left out, and why.
        sample: Draws and answers with the model as it is: name of the stage, steps that are done.
        mean: The mean of the weights by name, if the recipe has one.
        adapters_only: True where adapters learn in place of the language model's own weights.
    """

    recipe: Recipe
    trainee: nn.Module
    lay_out: Callable[[Stage, int], Layout]
    load: Load
    world: World
    folder: Path
    settings: Settings
    report: Callable[[dict[str, float | str]], None]
    skip: Callable[[Mapping[str, str]], None]
    sample: Callable[[str, int], None] = lambda stage, step: None
    mean: dict[str, Tensor] = field(default_factory=dict)
    adapters_only: bool = False

    @property
    def stages(self) -> list[str]:
        """Names of the recipe's stages."""
        return [stage.name for stage in self.recipe.stages]


def train_stage(run: Run, number: int, start: Place | None) -> None:
    """Train one stage and save its end.

    Args:
        run: The training.
        number: Number of the stage.
        start: The state to go on at, of this stage or the end of the one before; None to begin.

    Raises:
        TrainingError: A loss or a gradient is not finite.
        OSError: A state cannot be written; the one before stays.
    """
    stage = run.recipe.stages[number]
    optimizers = optimizers_of(
        _learning(run, stage),
        _LAYERS if run.recipe.optimizer == "muon" else (),
        rate=stage.learning_rate,
        betas=run.recipe.betas,
        decay=stage.weight_decay,
    )
    done = 0
    if start is not None:
        inside = start.stage == number
        resume(start, run.trainee, optimizers if inside else (), run.mean)
        done = start.step if inside else 0
    run.trainee.train()
    began = last_saved = time.monotonic()
    meter, peak = Meter(), peak_of(run.world.device)
    for step in range(done, stage.steps):
        for group in (group for each in optimizers for group in each.param_groups):
            group["lr"] = stage.rate_at(step)
        layout = _laid_out(run, stage, step)
        sums = _step(run, stage, step, layout, optimizers)
        meter.add(run.recipe, stage, layout)
        is_last = step + 1 == stage.steps
        late = run.world.leads and time.monotonic() - last_saved > run.settings.save_every_s
        *sums_all, votes = run.world.sum([*sums.values(), float(late)])
        if is_last or (step + 1) % run.settings.log_every == 0:
            line = _line(run, stage, step, layout, dict(zip(sums, sums_all, strict=True)))
            line |= meter.read(run.world.size, peak)
            run.report(line | {"seconds": round(time.monotonic() - began, 1)})
        if is_last or votes:
            content = content_of(run.trainee, optimizers, run.mean)
            save(run.folder / "states", run.stages, (number, step + 1), content, run.world)
            last_saved = time.monotonic()
        every = run.settings.samples_every
        if every and (is_last or (step + 1) % every == 0):
            run.sample(stage.name, step + 1)


def _learning(run: Run, stage: Stage) -> list[tuple[str, nn.Parameter]]:
    """Freeze what a stage does not train; return the rest by name."""
    trained = tuple(f"model.{each}" for each in run.recipe.prefixes(stage))
    repa = ("projector.",) if run.recipe.repa else ()
    select_trainable(run.trainee, trained + repa)
    for name, parameter in run.trainee.named_parameters():
        if run.adapters_only and is_frozen(name.removeprefix("model.")):
            parameter.requires_grad_(False)
    return [(name, each) for name, each in run.trainee.named_parameters() if each.requires_grad]


def _laid_out(run: Run, stage: Stage, step: int) -> Layout:
    """Return a step's layout; raise TrainingError if nothing is left of it."""
    layout = run.lay_out(stage, step)
    if run.world.leads:  # all lay out the same
        run.skip(layout.skipped)
    if not layout.pieces:
        raise TrainingError(
            f"stage {stage.name}, step {step}: all of its samples are broken; "
            "janus-edge data check DATA names them"
        )
    return layout


def _step(
    run: Run,
    stage: Stage,
    step: int,
    layout: Layout,
    optimizers: list[Optimizer],
) -> dict[str, float]:
    """Take one step; return the sums of losses of this process and the gradient's norm."""
    shares = share_of(run.recipe, stage, layout)
    turns = layout.of(run.world.rank, run.world.size, run.settings.rows_at_once)
    totals: dict[str, float] = {}
    for number, rows in enumerate(turns):
        exchange_gradients(run.trainee, number == len(turns) - 1)
        packed = run.load(stage, step, [[layout.pieces[i] for i in row] for row in rows])
        with _precision(run):
            sums: dict[str, Tensor] = run.trainee(packed.to(run.world.device))
        parts = [shares[name] * value for name, value in sums.items()]
        # FSDP takes the mean of the processes' gradients, and the loss is their sum.
        torch.autograd.backward(torch.stack(parts).sum() * run.world.size)
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + value.item()
    groups = [group for each in optimizers for group in each.param_groups]
    parameters = [parameter for group in groups for parameter in group["params"]]
    norm = float(whole(nn.utils.clip_grad_norm_(parameters, run.recipe.clip)))
    if not math.isfinite(norm):
        raise TrainingError(
            f"stage {stage.name}, step {step}: the gradient's norm is {norm:g}; give the recipe a "
            "smaller learning rate, and a new folder for the run"
        )
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if run.recipe.ema is not None and run.mean:
        _follow(run.mean, run.trainee, run.recipe.ema)
    return totals | {"norm": norm / run.world.size}


def share_of(recipe: Recipe, stage: Stage, layout: Layout) -> dict[str, float]:
    """Return what each sum of losses counts for in the loss.

    A Janus's loss is the mean over all tokens and codes of a step, or the means of both tasks by
    their number of examples. A JanusFlow's is the mean over its tokens, plus the means over its
    images of the velocity's and of REPA's. No task has another weight.

    Args:
        recipe: The recipe.
        stage: The stage, which says how tasks are balanced.
        layout: The step.
    """
    num_tokens, num_codes, num_drawn = layout.num_tokens, layout.num_codes, layout.num_drawn
    if recipe.family == "janusflow":
        images, weight = 1 / max(1, num_drawn), recipe.repa.weight if recipe.repa else 0.0
        return {"answer": 1 / max(1, num_tokens), "velocity": images, "repa": weight * images}
    if stage.balance == "examples":
        drawn = num_drawn / len(layout.pieces)
        return {"answer": (1 - drawn) / max(1, num_tokens), "image": drawn / max(1, num_codes)}
    each = 1 / max(1, num_tokens + num_codes)
    return {"answer": each, "image": each}


def _precision(run: Run) -> AbstractContextManager[None]:
    device = run.world.device
    if run.settings.bf16:
        return autocast(device)
    return torch.autocast(device.type, enabled=False)


def _line(
    run: Run, stage: Stage, step: int, layout: Layout, sums: dict[str, float]
) -> dict[str, float | str]:
    """Return a line of the log: the whole loss, and each task's own mean."""
    shares = share_of(run.recipe, stage, layout)
    counts = {"answer": layout.num_tokens, "image": layout.num_codes}
    norm = sums.pop("norm")
    means = {
        name: value / counts.get(name, layout.num_drawn)
        for name, value in sums.items()
        if counts.get(name, layout.num_drawn)
    }
    loss = sum(shares[name] * value for name, value in sums.items())
    line: dict[str, float | str] = {"stage": stage.name, "step": step + 1, "loss": loss}
    line |= means | {"norm": norm, "rate": stage.rate_at(step)}
    return line | {"rows": len(layout.rows), "skipped": len(layout.skipped)}


@torch.no_grad()
def _follow(mean: dict[str, Tensor], trainee: nn.Module, decay: float) -> None:
    """Move the mean of the weights towards the weights."""
    now = dict(trainee.named_parameters())
    torch._foreach_lerp_(list(mean.values()), [now[name].detach() for name in mean], 1 - decay)


def first_mean(trainee: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """Return the mean of the weights at the start: a copy of all that any stage trains.

    Adapters have no mean: the mean of products is not the product of means, and it would hold back
    the little that they learn.

    Args:
        trainee: The model, prepared as it is trained.
        recipe: The recipe; without ``ema`` there is no mean.
    """
    if recipe.ema is None or has_adapters(trainee):
        return {}
    starts = tuple(f"model.{p}" for stage in recipe.stages for p in recipe.prefixes(stage))
    return {
        name: value.detach().clone()
        for name, value in trainee.named_parameters()
        if name.startswith(starts)
    }


def stages_left(recipe: Recipe, last: Place | None) -> Iterator[tuple[int, Place | None]]:
    """Yield the stages that are not finished, each with the state that it starts from.

    Args:
        recipe: The recipe.
        last: The last saved state.
    """
    for number, stage in enumerate(recipe.stages):
        if last is not None and (number, stage.steps) <= (last.stage, last.step):
            continue
        yield number, last if last is not None and last.stage >= number - 1 else None
        last = None  # the next stage goes on with the weights as they are
