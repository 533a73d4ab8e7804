"""One resumable training loop for every stage. Knows no model, no data and no loss.

The loss of a step depends on the step's number alone (data and noise are counted, not drawn from a
stream), so a run that was stopped and resumed takes the same steps as one that was not.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.files import append_line, atomic_write, sync
from janus_edge.runtime.stop import keeping

LossAt = Callable[[int], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage trains and how. ``trainable`` are prefixes of parameter names."""

    name: str
    num_steps: int
    batch_size: int
    learning_rate: float
    trainable: tuple[str, ...]
    warmup_steps: int = 0
    decay_from: float = 1.0  # the part of the horizon after which the rate falls to 0 by a cosine
    horizon: int = 0  # steps the rate is laid out for, where the stage ends before; 0: num_steps
    weight_decay: float = 0.0
    muon: tuple[str, ...] = ()  # words in the names of matrices that Muon moves, AdamW the rest
    muon_factor: float = 3.0  # Muon's rate over AdamW's

    def __post_init__(self) -> None:
        """Refuse empty stages."""
        if self.num_steps < 1 or self.batch_size < 1:
            raise ValueError(f"stage {self.name}: num_steps and batch_size must be at least 1")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, cosine to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        horizon = self.horizon or self.num_steps
        flat = int(self.decay_from * horizon)
        if step < flat:
            return self.learning_rate
        done = (step - flat) / max(1, horizon - flat)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def run_stage(
    model: nn.Module,
    stage: Stage,
    loss_at: LossAt,
    run_dir: Path,
    *,
    save_every_s: float = 120,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train ``model`` in place; state in ``<run_dir>/<stage>.pt``, a line of log every 20 steps.

    after_step: called when the weights have changed. A finished stage is loaded and left alone; a
    stopped one goes on at its last saved step, or at the one before (``<stage>.before.pt``) if the
    last is not complete.
    Raises FloatingPointError when the loss or its gradient is not finite, OutputError where the
    folder cannot be read or written; what was saved is.
    """
    try:
        with keeping(lambda: _kept(run_dir / f"{stage.name}.pt", stage)):
            _run_stage(model, stage, loss_at, run_dir, save_every_s, after_step)
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
    after_step: Callable[[], None],
) -> None:
    path, log = run_dir / f"{stage.name}.pt", run_dir / "log.jsonl"
    parameters = select_trainable(model, stage.trainable)
    optimizers = make_optimizers(model, stage)
    start = _resume(path, model, optimizers, stage)
    if start == stage.num_steps:
        return
    _drop_later_lines(log, stage.name, start)
    began = saved = time.monotonic()
    model.train()
    for step in _with_bar(stage, start):
        rate = stage.rate_at(step)
        for group in (group for each in optimizers for group in each.param_groups):
            group["lr"] = rate * group["factor"]
        loss, metrics = loss_at(step)
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            if not torch.isfinite(value):
                raise FloatingPointError(f"stage {stage.name}, step {step}: {name} is {value:g}")
        for each in optimizers:
            each.step()
        after_step()
        done = step + 1
        if done % 20 == 0 or done == stage.num_steps:
            line = {"stage": stage.name, "step": done, "loss": round(loss.item(), 5), "lr": rate}
            line |= {name: round(value, 5) for name, value in metrics.items()}
            line["seconds"] = round(time.monotonic() - began, 1)
            append_line(log, f"{json.dumps(line)}\n".encode())
        if done == stage.num_steps or time.monotonic() - saved > save_every_s:
            _save(path, model, optimizers, done)
            saved = time.monotonic()
    model.eval()


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bf16 where the device multiplies it fast; a CPU without it would take thirty times as long
    as in float32 (docs/log.md)."""
    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def select_trainable(model: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Parameter]:
    """Freeze all parameters but those whose name starts with a prefix; returns the latter.

    Raises ValueError for a prefix that matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f'no parameter starts with "{prefix}"')
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_optimizers(model: nn.Module, stage: Stage) -> list[Optimizer]:
    """AdamW, and Muon for the matrices that the stage names: what is trainable, each once.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves a matrix along its gradient's
    nearest orthogonal one, here by steps as large as AdamW's.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    turned = {n: p for n, p in named if p.ndim == 2 and any(word in n for word in stage.muon)}
    rest = [p for name, p in named if name not in turned]
    decay, rate = stage.weight_decay, stage.learning_rate
    optimizers: list[Optimizer] = [
        AdamW(
            [{"params": rest, "factor": 1.0}],
            lr=rate,
            betas=(0.9, 0.95),
            weight_decay=decay,
            fused=True,
        )
    ]
    if turned:
        groups = [{"params": list(turned.values()), "factor": stage.muon_factor}]
        scaled = "match_rms_adamw"
        optimizers.append(Muon(groups, lr=rate, weight_decay=decay, adjust_lr_fn=scaled))
    return optimizers


def _resume(path: Path, model: nn.Module, optimizers: list[Optimizer], stage: Stage) -> int:
    state = _read_state(path)
    if state is None and (state := _read_state(_before(path))) is not None:
        _before(path).replace(path)  # so that the next save keeps it, not the damaged one
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    if state["step"] < stage.num_steps:
        for each, saved in zip(optimizers, state["optimizers"], strict=True):
            each.load_state_dict(saved)
    else:
        model.eval()
    return min(int(state["step"]), stage.num_steps)


def _before(path: Path) -> Path:
    """Where the state before the last one is."""
    return path.with_suffix(".before.pt")


def _read_state(path: Path) -> dict[str, Any] | None:
    """Return a saved state, None where there is none or it is not complete."""
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
    is_whole = isinstance(state, dict) and {"step", "model", "optimizers"} <= state.keys()
    return state if is_whole else None


def _kept(path: Path, stage: Stage) -> str:
    """What a stopped stage leaves, as words."""
    state = _read_state(path) or _read_state(_before(path))
    step = 0 if state is None else state["step"]
    where = f"stage {stage.name} is saved at step {step} of {stage.num_steps}"
    return f"{where}: start again with the same words to go on there"


def _save(path: Path, model: nn.Module, optimizers: list[Optimizer], step: int) -> None:
    states = [each.state_dict() for each in optimizers]
    state = {"step": step, "model": model.state_dict(), "optimizers": states}
    with atomic_write(path) as part:
        content = io.BytesIO()  # torch itself does not say why a file cannot be written
        torch.save(state, content)
        part.write_bytes(content.getbuffer())
        sync(part)
        if path.exists():  # a reader that finds no state takes the one before
            path.replace(_before(path))


def _drop_later_lines(log: Path, stage: str, start: int) -> None:
    """Forget what was logged after the step that a resumed stage starts from."""
    if not log.exists():
        return
    kept = [line for line in _lines(log) if line["stage"] != stage or line["step"] <= start]
    with atomic_write(log) as part:
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log but for those that a crash has left half written."""
    for raw in log.read_bytes().splitlines():
        with suppress(ValueError):
            line = json.loads(raw)
            if isinstance(line, dict) and {"stage", "step"} <= line.keys():
                yield line


def _with_bar(stage: Stage, start: int) -> Iterator[int]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(stage.name, total=stage.num_steps, completed=start)
        for step in range(start, stage.num_steps):
            yield step
            bar.advance(task)
