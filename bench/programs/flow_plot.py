r"""Plot the record of flow settings; print two tables for docs/flow.md, and the default.

    python bench/programs/flow_plot.py bench/records/flow-settings.jsonl docs/flow.png \
        [--guidance-scale W]

It reads the newest run: the lines with the last line's bundle, split and number of prompts. The
default is the fastest setting whose score by GenEval's rule is at most 1 point below that of
Euler's 30 steps. Plot and tables are of one guidance scale, the default's unless another is named.
Needs matplotlib (extra ``bench``).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from janus_edge.runtime.files import atomic_write

Record = dict[str, Any]

POINT = 0.01
FULL = (0.0, 1.0)
PUBLISHED = {
    "solver": "euler",
    "num_steps": 30,
    "shift": 1.0,
    "guidance_start": FULL[0],
    "guidance_end": FULL[1],
}
SOLVERS = {"euler": "Euler", "ab2": "AB2", "heun": "Heun"}


def newest_run(lines: list[str]) -> list[Record]:
    """Return the newest record of each setting of the last record's run.

    A run is one bundle, split and number of prompts.

    Raises:
        ValueError: There are no records.
    """
    records = [json.loads(line) for line in lines]
    if not records:
        raise ValueError("no lines; run bench/programs/flow_settings.py")
    last = records[-1]
    found = {}
    for record in records:
        if all(record[name] == last[name] for name in ("bundle_sha256", "split", "prompts")):
            found[json.dumps(record["settings"], sort_keys=True)] = record
    return list(found.values())


def score(record: Record) -> float:
    """Return the score by GenEval's rule, the mean of the categories."""
    return record["geneval"]["overall"]


def published(records: list[Record]) -> Record:
    """Return the record of Euler's 30 steps, uniform and guided throughout.

    Of several guidance scales it is the one with the best score.

    Raises:
        ValueError: It was not measured.
    """
    found = [record for record in records if PUBLISHED.items() <= record["settings"].items()]
    if not found:
        raise ValueError("no line of Euler's 30 steps at shift 1, guided throughout; measure it")
    return max(found, key=score)


def default_of(records: list[Record]) -> Record:
    """Return the fastest setting whose score is at most a point below the published setting's.

    Speed is counted in rows that the network computes. Of equally fast settings it is the best one,
    then the one with the smallest latent error.
    """
    bar = score(published(records))
    good = [record for record in records if round(bar - score(record), 6) <= POINT]
    return min(good, key=lambda r: (r["velocity_rows"], -score(r), r["latent_error"]))


def difference(record: Record, other: Record) -> tuple[float, float]:
    """Return how much more a record scores than another, and the standard error of that.

    Both drew the same prompts from the same noise, so they are compared image by image.
    """
    verdicts = (each["verdicts"]["geneval"] for each in (record, other))
    gains = [int(mine) - int(others) for mine, others in zip(*verdicts, strict=True)]
    return fmean(gains), stdev(gains) / len(gains) ** 0.5


def interval(record: Record) -> tuple[float, float]:
    """Return the interval of t in which guidance is on."""
    return record["settings"]["guidance_start"], record["settings"]["guidance_end"]


def solver(record: Record) -> tuple[str, int, float]:
    """Return solver, steps and shift."""
    chosen = record["settings"]
    return chosen["solver"], chosen["num_steps"], chosen["shift"]


def named(record: Record) -> str:
    """Return a setting in words: ``AB2 8, shift 2``; a shift of 1 is left out."""
    name, steps, shift = solver(record)
    return f"{SOLVERS[name]} {steps}" + (f", shift {shift:g}" if shift != 1 else "")


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(words)} |" for words in lines)


def shift_table(records: list[Record]) -> str:
    """Return the table of settings that are guided throughout.

    Rows are solvers and steps, columns are shifts; a cell has the score and the latent error.
    """
    cells = {solver(record): record for record in records if interval(record) == FULL}
    shifts = sorted({shift for _, _, shift in cells})
    by_solver = sorted(
        {key[:2] for key in cells}, key=lambda key: (list(SOLVERS).index(key[0]), key)
    )
    rows = []
    for name, steps in by_solver:
        across = [cells.get((name, steps, shift)) for shift in shifts]
        measured = [record for record in across if record is not None]
        ms = fmean(record["ms"] for record in measured)
        cost = [str(measured[0]["velocity_rows"]), f"{ms:.0f}"]
        words = [f"{score(r):.3f} ({r['latent_error']:.2g})" if r else "" for r in across]
        rows.append([SOLVERS[name], str(steps), *cost, *words])
    return markdown(["solver", "steps", "rows", "ms", *(f"shift {s:g}" for s in shifts)], rows)


COLUMNS: dict[str, Callable[[Record, Record], str]] = {
    "setting": lambda r, base: named(r),
    "guided at t in": lambda r, base: "{:g} to {:g}".format(*interval(r)),
    "rows": lambda r, base: str(r["velocity_rows"]),
    "ms": lambda r, base: f"{r['ms']:.0f}",
    "latent error": lambda r, base: f"{r['latent_error']:.2g}",
    "GenEval's rule": lambda r, base: f"{score(r):.3f}",
    "strict": lambda r, base: f"{r['strict']['overall']:.3f}",
    "against Euler 30": lambda r, base: (
        "" if r is base else "{:+.3f} ± {:.3f}".format(*difference(r, base))
    ),
}


def interval_table(records: list[Record], base: Record, chosen: Record) -> str:
    """Return the table of settings with guidance in a part of t, fastest first.

    Beside them stand the same settings guided throughout.

    Args:
        records: All records of one guidance scale.
        base: The published setting.
        chosen: The default, shown in bold.
    """
    tried = {solver(record) for record in records if interval(record) != FULL}
    shown = [r for r in records if solver(r) in tried or r is base or r is chosen]
    rows = []
    for record in sorted(shown, key=lambda r: (r["velocity_rows"], -score(r))):
        words = [column(record, base) for column in COLUMNS.values()]
        rows.append([f"**{word}**" for word in words] if record is chosen else words)
    return markdown(list(COLUMNS), rows)


COLOURS = ("#1b6ca8", "#e07b00", "#2f8f4e", "#b03a6b")  # of shifts
MARKERS = "Ds^vp<"  # of guidance intervals
TICKS = (8, 10, 12, 16, 20, 30, 40, 60)
BAND = "Euler 30's score,\nto 1 point less"
RING = {"ms": 13, "mfc": "none", "mec": "black", "mew": 1.5, "ls": "none"}


def plot(records: list[Record], base: Record, chosen: Record, path: Path) -> None:
    """Draw a column per solver: the score with its standard error above, the latent error below."""
    from matplotlib.figure import Figure  # here, as the rule and the tables work without it

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    figure.supxlabel("rows that the network computes for an image", fontsize="medium")
    axes = figure.subplots(2, len(SOLVERS), sharex=True, sharey="row")
    bar = score(base)
    for (name, title), pair in zip(SOLVERS.items(), axes.T, strict=True):
        of_solver = [record for record in records if record["settings"]["solver"] == name]
        draw_shifts(pair, [r for r in of_solver if interval(r) == FULL])
        draw_intervals(pair, [r for r in of_solver if interval(r) != FULL])
        if chosen in of_solver:
            for axis, height in zip(pair, (score(chosen), chosen["latent_error"]), strict=True):
                axis.plot(chosen["velocity_rows"], height, "o", label="the default", **RING)
        pair[0].axhspan(bar - POINT, bar, color="#cccccc", zorder=0, label=BAND)
        pair[0].set_title(title)
        pair[1].set(xscale="log", yscale="log", xticks=TICKS, xticklabels=TICKS)
        pair[1].minorticks_off()
    axes[0, 0].set_ylabel("score by GenEval's rule")
    axes[1, 0].set_ylabel("latent error")
    labels: dict[str, Any] = {}
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        handles, texts = axis.get_legend_handles_labels()
        labels |= dict(zip(texts, handles, strict=True))
    order = sorted(labels)
    figure.legend([labels[text] for text in order], order, loc="outside right upper", frameon=False)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=110)


def draw_shifts(pair: Any, records: list[Record]) -> None:
    """Draw a line per shift in both axes."""
    shifts = sorted({record["settings"]["shift"] for record in records})
    for index, shift in enumerate(shifts):
        line = sorted(
            (record for record in records if record["settings"]["shift"] == shift),
            key=lambda record: record["velocity_rows"],
        )
        rows = [record["velocity_rows"] for record in line]
        look = {"color": COLOURS[index % len(COLOURS)], "marker": "o", "ms": 3.5, "lw": 1.3}
        pair[0].errorbar(
            [row * (1 + (index - 1.5) * 0.012) for row in rows],  # beside each other, not over
            [score(record) for record in line],
            yerr=[record["geneval"]["standard_error"] for record in line],
            elinewidth=0.6,
            label=f"shift {shift:g}",
            **look,
        )
        pair[1].plot(rows, [record["latent_error"] for record in line], **look)


def draw_intervals(pair: Any, records: list[Record]) -> None:
    """Draw a kind of marker per guidance interval in both axes."""
    intervals = sorted({interval(record) for record in records})
    for marker, (start, end) in zip(itertools.cycle(MARKERS), intervals):
        points = [record for record in records if interval(record) == (start, end)]
        rows = [record["velocity_rows"] for record in points]
        look = {"marker": marker, "ms": 5.5, "mfc": "white", "mec": "#444444", "ls": "none"}
        label = f"guided at t in {start:g} to {end:g}"
        pair[0].plot(rows, [score(record) for record in points], label=label, **look)
        pair[1].plot(rows, [record["latent_error"] for record in points], **look)


def main() -> None:
    """Parse the command line, plot, and print the tables and the default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("plot", type=Path, help="PNG file")
    parser.add_argument("--guidance-scale", type=float, help="of plot and tables")
    options = parser.parse_args()
    try:
        records = newest_run(options.record.read_text(encoding="utf-8").splitlines())
        default = default_of(records)
        scale = options.guidance_scale or default["settings"]["guidance_scale"]
        shown = [r for r in records if r["settings"]["guidance_scale"] == scale]
        base = published(shown)
    except (OSError, ValueError) as error:
        parser.error(f"{options.record}: {error}")
    plot(shown, base, default, options.plot)
    print(f"Guidance {scale:g}, {base['prompts']} prompts of {base['split']}:", end="\n\n")
    print(shift_table(shown), interval_table(shown, base, default), sep="\n\n", end="\n\n")
    bar = published(records)
    print(
        f"default: {named(default)}, guidance {default['settings']['guidance_scale']:g} at t in "
        "{:g} to {:g}".format(*interval(default))
        + f": {score(default):.3f}; Euler 30 with "
        f"guidance {bar['settings']['guidance_scale']:g}: {score(bar):.3f}"
    )


if __name__ == "__main__":
    main()
