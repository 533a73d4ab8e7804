"""The report of a finished run: ``report.md`` with its numbers, plots and last samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from janus_edge.runtime.files import atomic_write
from janus_edge.train.log import lines_of_log
from janus_edge.train.recipe import Recipe, Stage

SAMPLES = "samples"  # folder of images and answers, in that of the run
SKIPPED = "skipped.jsonl"
LOSSES = ("loss", "answer", "image", "velocity", "repa")
_AXES = {"rate": "learning rate", "norm": "gradient norm", "tokens_per_s": "tokens per second"}


def write_report(folder: Path, recipe: Recipe) -> Path:
    """Write the report of a run from its log and samples.

    Args:
        folder: Folder of the run.
        recipe: The recipe.

    Returns:
        The report.

    Raises:
        OSError: It cannot be written.
    """
    log = list(lines_of_log(folder / "log.jsonl"))
    drawn = _plot(folder / "report.png", log, recipe)
    words = [f"# {recipe.name}", "", *_table(log, recipe), ""]
    words += ["![losses, learning rate and speed](report.png)", ""] if drawn else []
    words += [*_samples(folder), *_skipped(folder), *_deviations(recipe)]
    path = folder / "report.md"
    with atomic_write(path) as part:
        part.write_text("\n".join(words).rstrip() + "\n", encoding="utf-8")
    return path


def _table(log: list[dict[str, Any]], recipe: Recipe) -> Iterator[str]:
    """Yield a row per stage: its last losses and what it took."""
    yield "| stage | steps | examples | loss | by task | tokens per second | hours |"
    yield "|---|---|---|---|---|---|---|"
    for stage in recipe.stages:
        lines = [line for line in log if line["stage"] == stage.name]
        if lines:
            yield _row(stage, lines)


def _row(stage: Stage, lines: list[dict[str, Any]]) -> str:
    """Return a stage's row; the speed is the median over its lines."""
    last = lines[-1]
    tasks = ", ".join(f"{name} {last[name]:.3f}" for name in LOSSES[1:] if name in last)
    speeds = sorted(line.get("tokens_per_s", 0.0) for line in lines)
    step = last["step"]
    cells = [stage.name, step, step * stage.batch_size, f"{last['loss']:.4f}", tasks]
    cells += [f"{speeds[len(speeds) // 2]:.0f}", f"{_seconds(lines) / 3600:.2f}"]
    return f"| {' | '.join(map(str, cells))} |"


def _seconds(lines: list[dict[str, Any]]) -> float:
    """Return how long a stage took; the clock starts anew where the run was resumed."""
    total = before = 0.0
    for line in lines:
        now = float(line["seconds"])
        total += now - before if now >= before else now
        before = now
    return total


def _plot(path: Path, log: list[dict[str, Any]], recipe: Recipe) -> bool:
    """Plot losses, rate, gradient norm and speed; return False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(11, 7), layout="constrained")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    starts = _starts(recipe)
    at = [starts[line["stage"]] + line["step"] for line in log]
    for name in LOSSES:
        points = [(x, line[name]) for x, line in zip(at, log, strict=True) if name in line]
        if points:
            first.plot(*zip(*points, strict=True), label=name, linewidth=1)
    first.set(title="loss", yscale="log")
    if log:
        first.legend()
    for axes, (name, title) in zip((second, third, fourth), _AXES.items(), strict=True):
        points = [(x, line[name]) for x, line in zip(at, log, strict=True) if name in line]
        axes.plot(*zip(*points, strict=True), linewidth=1) if points else None
        axes.set(title=title)
    for axes in (first, second, third, fourth):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        for start in list(starts.values())[1:]:
            axes.axvline(start, color="grey", linewidth=0.8, linestyle=":")
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=110)
    return True


def _starts(recipe: Recipe) -> dict[str, int]:
    """Return the step at which each stage starts, counted over all stages."""
    starts, total = {}, 0
    for stage in recipe.stages:
        starts[stage.name] = total
        total += stage.steps
    return starts


def _samples(folder: Path) -> Iterator[str]:
    """Yield the last images with their captions, and the last answers."""
    found = sorted((folder / SAMPLES).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        return
    last = json.loads(found[-1].read_text(encoding="utf-8"))
    yield f"## Samples after {last['stage']}, step {last['step']}"
    yield ""
    if last["captions"]:
        yield f"![images of the captions below, in their order]({SAMPLES}/{found[-1].stem}.png)"
        yield ""
    yield from (f"{number}. {caption}" for number, caption in enumerate(last["captions"], 1))
    yield ""
    if last["answers"]:
        yield "| question | answer | right answer |"
        yield "|---|---|---|"
        yield from (_answer(each) for each in last["answers"])
        yield ""


def _answer(asked: Mapping[str, str]) -> str:
    cells = (asked[name].replace("|", "\\|") for name in ("question", "answer", "right"))
    return f"| {' | '.join(cells)} |"


def skipped_in(folder: Path) -> set[str]:
    """Return the names of the samples that ``skipped.jsonl`` of a run holds."""
    found = set()
    with suppress(OSError):
        for line in (folder / SKIPPED).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                found.add(json.loads(line)["name"])
    return found


def _skipped(folder: Path) -> Iterator[str]:
    """Yield how many samples were left out."""
    if names := skipped_in(folder):
        yield f"**Left out:** {len(names)} samples, named with the reason in `{SKIPPED}`."
        yield ""


def _deviations(recipe: Recipe) -> Iterator[str]:
    """Yield what the recipe does differently from the paper's."""
    if recipe.deviations:
        yield "## What differs from the paper"
        yield ""
        yield "| here | paper | reason |"
        yield "|---|---|---|"
        yield from (f"| {each.what} | {each.paper} | {each.reason} |" for each in recipe.deviations)
