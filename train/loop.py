"""One resumable training loop for every stage; it knows no model, no data and no loss.

The loss of a step depends on the step's number alone: data and noise follow from it and are not
drawn from a stream. A run that was stopped and resumed therefore takes the same steps as one that
was not.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer

from janus_edge.runtime.errors import OptionError, OutputError
from janus_edge.runtime.files import atomic_write, sync
from janus_edge.runtime.stop import displayed, keeping
from janus_edge.train.log import drop_lines_after, write_line
from janus_edge.train.optimizers import optimizers_of
from janus_edge.train.schedule import rate_at

LossAt = Callable[[int], tuple[Tensor, dict[str, float]]]
_MOMENTS = ("optimizer", "second_optimizer")  # in a state


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage trains, and how.

    Attributes:
        name: Name of the stage in files and in the log.
        num_steps: Steps of the stage.
        batch_size: Examples per step.
        learning_rate: Learning rate after warm-up.
        trainable: Prefixes of the names of trained parameters.
        warmup_steps: Steps in which the rate rises linearly.
        decay_from: Part of the stage after which the rate falls to 0 by a cosine.
        weight_decay: The optimizers'.
        by_muon: Muon takes the matrices whose names hold all of these, AdamW the rest.
    """

    name: str
    num_steps: int
    batch_size: int
    learning_rate: float
    trainable: tuple[str, ...]
    warmup_steps: int = 0
    decay_from: float = 1.0
    weight_decay: float = 0.0
    by_muon: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse empty stages; raise ValueError."""
        if self.num_steps < 1 or self.batch_size < 1:
            raise ValueError(f"stage {self.name}: num_steps and batch_size must be at least 1")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        return rate_at(
            step,
            steps=self.num_steps,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_from=self.decay_from,
        )


def run_stage(
    model: nn.Module,
    stage: Stage,
    loss_at: LossAt,
    run_dir: Path,
    *,
    save_every_s: float = 120,
) -> None:
    """Train a model in place, with its state in a file and a line of log every 20 steps.

    A finished stage is loaded and not trained again. A stopped one goes on at its last saved step,
    or at the one before (``<stage>.before.pt``) if the last is not complete.

    Args:
        model: The model, changed in place.
        stage: What to train, and how.
        loss_at: Loss and metrics of a step's number.
        run_dir: Folder of the state ``<stage>.pt`` and of ``log.jsonl``.
        save_every_s: Seconds between saved states.

    Raises:
        FloatingPointError: The loss or its gradient is not finite.
        OptionError: A saved state is of another model or optimizer.
        OutputError: The folder cannot be read or written; what was saved stays.
    """
    try:
        with keeping(lambda: _kept(run_dir / f"{stage.name}.pt", stage)):
            _run_stage(model, stage, loss_at, run_dir, save_every_s)
    except OSError as error:
        raise OutputError(
            f"{error.filename or run_dir}: {error.strerror or error}; make room there, then start "
            "again: it goes on at the last saved step"
        ) from error


def _run_stage(
    model: nn.Module,
    stage: Stage,
    loss_at: LossAt,
    run_dir: Path,
    save_every_s: float,
) -> None:
    """Train as ``run_stage`` says; raise OSError for errors of files."""
    path, log = run_dir / f"{stage.name}.pt", run_dir / "log.jsonl"
    parameters = select_trainable(model, stage.trainable)
    optimizers = optimizers_of(
        [(name, each) for name, each in model.named_parameters() if each.requires_grad],
        stage.by_muon,
        rate=stage.learning_rate,
        betas=(0.9, 0.95),
        decay=stage.weight_decay,
        is_fused=True,
    )
    start = _resume(path, model, optimizers, stage)
    if start == stage.num_steps:
        return
    drop_lines_after(log, {stage.name: start}, others=math.inf)
    began = saved = time.monotonic()
    model.train()
    for step in _with_bar(stage, start):
        rate = stage.rate_at(step)
        for group in (group for each in optimizers for group in each.param_groups):
            group["lr"] = rate
        loss, metrics = loss_at(step)
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            if not torch.isfinite(value):
                raise FloatingPointError(f"stage {stage.name}, step {step}: {name} is {value:g}")
        for optimizer in optimizers:
            optimizer.step()
        done = step + 1
        if done % 20 == 0 or done == stage.num_steps:
            line = {"stage": stage.name, "step": done, "loss": round(loss.item(), 5), "lr": rate}
            write_line(log, line, metrics, time.monotonic() - began)
        if done == stage.num_steps or time.monotonic() - saved > save_every_s:
            _save(path, model, optimizers, done)
            saved = time.monotonic()
    model.eval()


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Return a context of bf16 autocast, where the device multiplies bf16 fast.

    A CPU without such instructions would take thirty times as long as in fp32 (docs/log.md).
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bf16_fast(device))


def is_bf16_fast(device: torch.device) -> bool:
    """Return whether a device has instructions that multiply bf16."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


def select_trainable(model: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Parameter]:
    """Freeze all parameters but those whose name starts with a prefix; return the latter.

    Args:
        model: The model, changed in place.
        prefixes: Starts of names; an empty one matches all.

    Raises:
        ValueError: A prefix matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f'no parameter starts with "{prefix}"')
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _resume(path: Path, model: nn.Module, optimizers: Sequence[Optimizer], stage: Stage) -> int:
    """Load the last complete state; return the step to go on at, 0 without a state."""
    state = _read_state(path)
    if state is None and (state := _read_state(_before(path))) is not None:
        _before(path).replace(path)  # so that the next save keeps it, not the damaged one
    if state is None:
        return 0
    try:
        model.load_state_dict(state["model"])
        for name, optimizer in zip(_MOMENTS, optimizers, strict=False):
            optimizer.load_state_dict(state[name])
    except (RuntimeError, ValueError, KeyError):
        raise OptionError(
            f"{path}: of another model or optimizer; remove it, and stage {stage.name} begins anew"
        ) from None
    if state["step"] >= stage.num_steps:
        model.eval()
    return min(int(state["step"]), stage.num_steps)


def _before(path: Path) -> Path:
    """Return the path of the state before the last one."""
    return path.with_suffix(".before.pt")


def _read_state(path: Path) -> dict[str, Any] | None:
    """Return a saved state; None if there is none or it is not complete."""
    try:
        state: Any = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception as error:  # a damaged file is anything to torch
        reason = str(error).partition("\n")[0] or type(error).__name__
        print(f"{path}: not complete ({reason:.60}); left out", flush=True)
        return None
    is_whole = isinstance(state, dict) and {"step", "model", "optimizer"} <= state.keys()
    return state if is_whole else None


def _kept(path: Path, stage: Stage) -> str:
    """Return a line on what a stopped stage leaves."""
    state = _read_state(path) or _read_state(_before(path))
    step = 0 if state is None else state["step"]
    where = f"stage {stage.name} is saved at step {step} of {stage.num_steps}"
    return f"{where}: start again with the same words to go on there"


def _save(path: Path, model: nn.Module, optimizers: Sequence[Optimizer], step: int) -> None:
    """Write the state; keep the one before."""
    state = {"step": step, "model": model.state_dict()}
    state |= {key: each.state_dict() for key, each in zip(_MOMENTS, optimizers, strict=False)}
    with atomic_write(path) as part:
        content = io.BytesIO()  # torch itself does not say why a file cannot be written
        torch.save(state, content)
        part.write_bytes(content.getbuffer())
        sync(part)
        if path.exists():  # a reader that finds no state takes the one before
            path.replace(_before(path))


def _with_bar(stage: Stage, start: int) -> Iterator[int]:
    """Yield the steps from ``start`` on, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with displayed(Progress(*columns, TimeRemainingColumn())) as bar:
        task = bar.add_task(stage.name, total=stage.num_steps, completed=start)
        for step in range(start, stage.num_steps):
            yield step
            bar.advance(task)
