r"""Write the records as a report and a plot.

    python -m janus_edge.bench.programs.peers.report bench/records/peers.jsonl \
        bench/records/latency.jsonl bench/REPORT.md bench/report.png

It takes the newest line of each workload from the peers' record, and the newest line of each bundle
and settings from the record of ``janus-edge bench``. ``--gpu gpu-check.json`` adds what
scripts/gpu-check found. Needs matplotlib (extra ``bench``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from janus_edge.bench.programs.gpu_check import section
from janus_edge.diagnostics.records import read_records
from janus_edge.runtime.files import atomic_write

Record = dict[str, Any]

OURS = "janus-edge"
TITLES = {
    "codes": "One code after another",
    "draw": "A whole image",
    "flow": "A whole image by a flow",
    "ask": "An answer about a 384x384 image",
}
COLUMNS = {  # by workload: key and title; the first is the one that is plotted
    "codes": {"itl_mid_ms": "ms a code, mid-image", "itl_ms": "ms a code, all"},
    "draw": {"total_ms": "ms an image", "itl_ms": "ms a step"},
    "flow": {"total_ms": "ms an image", "itl_ms": "ms a step"},
    "ask": {"ttft_ms": "TTFT, ms", "itl_ms": "ITL, ms"},
}


def newest(records: list[Record], key_of: Callable[[Record], Any]) -> list[Record]:
    """Return the last record of each key, in the order in which the keys first occur."""
    return list({json.dumps(key_of(each), sort_keys=True): each for each in records}.values())


# What bench/1 calls the backends of a decoder.
_DECODERS = {"native": "cpu_kernels", "graph": "onnxruntime"}


def _lines(path: Path, *schemas: str) -> list[Record]:
    """Return the records of a file; raise ValueError if one is of another program."""
    records = read_records(path)
    if any(record.get("schema") not in schemas for record in records):
        raise ValueError(f"{path}: not all records are of schema {' or '.join(schemas)}")
    return records


def _bundles(record: Record) -> list[list[str]]:
    """Return the name of each bundle, and the keys of its results: which workloads were timed."""
    return [[bundle["name"], *bundle] for bundle in record["bundles"]]


def _title(record: Record) -> str:
    """Return the workload, and the bundle that janus-edge ran."""
    about = record["peers"].get(OURS, {}).get("about", "")
    return f"{TITLES[record['work']]}, {about.split(',')[0]}"


def side_by_side(record: Record) -> str:
    """Return a section of the report: a table of a workload's peers."""
    workload, peers = record["work"], record["peers"]
    first, *others = COLUMNS[workload]
    titles = [COLUMNS[workload][key] for key in (first, *others)]
    head = [
        "",
        *titles,
        *(f"{name}, times ours" for name in titles),
        "peak MB",
        "runs",
    ]
    rows = [head, ["---"] * len(head)]
    for name, row in peers.items():
        values = [row[key] for key in (first, *others)]
        ratios = [
            f"{row[key] / peers[OURS][key]:.2f}" if OURS in peers else ""
            for key in (first, *others)
        ]
        shown = [_shown(value) for value in values]
        rows.append([name, *shown, *ratios, str(row["peak_mb"]), str(row["runs"])])
    about = "\n".join(f"- {name}: {row['about']}" for name, row in peers.items())
    where = (
        f"{record['date'][:10]}, {record['machine']}, {record['threads']} threads, reads "
        f"{record['read_gb_s']} GB/s, load before {record['load'][0]}, commit "
        f"{record['commit'][:7]}."
    )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"## {_title(record)}\n\n{where}\n\n{table}\n\n{about}\n"


def _shown(value: float) -> str:
    """Return a number with four digits, and none after the point from 1000 on."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def alone(records: list[Record]) -> str:
    """Return a section of the report: what our own images cost, by bundle and settings."""
    head = ["date", "bundle", "weights", "decoder", "images at once", "prompt", "ms an image"]
    head += ["ms a step", "of the memory bandwidth", "first code after, ms", "peak MB"]
    rows = [head, ["---"] * len(head)]
    for record in records:
        for bundle in record["bundles"]:
            draw = bundle.get("draw")
            if draw is None:
                continue
            # bench/1 calls it "roof", and the decoder "native" or "graph".
            fraction = draw.get("bandwidth_fraction", draw.get("roof"))
            rows.append(
                [
                    record["date"][:10],
                    bundle["name"],
                    bundle["weights"],
                    _DECODERS.get(decoder := bundle.get("decoder", "graph"), decoder),
                    str(record["settings"]["batch"]),
                    str(bundle["prompt_tokens"]),
                    _shown(draw["image_ms"]["p50"]),
                    _shown(draw["itl_ms"]["p50"]),
                    "" if fraction is None else f"{fraction:.0%}",
                    f"{bundle['first_ms']:.0f}",
                    str(bundle["peak_mb"]),
                ]
            )
    return (
        "## Our own images\n\n`janus-edge bench`, p50; one line a bundle and setting. Processors: "
        f"{', '.join(sorted({record['machine'] for record in records}))}. Above 100% the machine "
        "read faster in the steps than when its bandwidth was measured.\n\n"
        + "\n".join("| " + " | ".join(row) + " |" for row in rows)
        + "\n"
    )


def plot(peers: list[Record], own: list[Record], path: Path) -> None:
    """Draw bars of the peers, and curves of our own images by images at once and by position.

    Args:
        peers: Newest record of each workload.
        own: Newest records of ``janus-edge bench``.
        path: PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, max(2, (len(peers) + 3) // 2), figsize=(15, 8))
    spots = list(axes.flat)
    for record in peers:
        axis, key = spots.pop(0), next(iter(COLUMNS[record["work"]]))
        names = list(record["peers"])
        values = [record["peers"][name][key] for name in names]
        bars = axis.barh(names, values, color=["C0" if OURS in name else "0.7" for name in names])
        axis.bar_label(bars, [_shown(value) for value in values], padding=3)
        axis.set_title(f"{_title(record)}\n{COLUMNS[record['work']][key]}", fontsize=9)
        axis.set_xlim(0, 1.25 * max(values))
        axis.invert_yaxis()
    _plot_own(own, spots.pop(0), spots.pop(0))
    for axis in spots:
        axis.axis("off")
    figure.tight_layout()
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=100)


def _plot_own(own: list[Record], batches: Any, positions: Any) -> None:
    """Draw curves of our own images: by images at once, and by position in the image."""
    drawn = [  # images at once, bundle and prompt, results
        (
            record["settings"]["batch"],
            f"{bundle['name']}, prompt of {bundle['prompt_tokens']}",
            bundle["draw"],
        )
        for record in own
        for bundle in record["bundles"]
        if "draw" in bundle
    ]
    for name in dict.fromkeys(name for _, name, _ in drawn):
        points = sorted((batch, draw["image_ms"]["p50"]) for batch, n, draw in drawn if n == name)
        if len(points) > 1:
            batches.plot(*zip(*points, strict=True), marker="o", label=name)
    for batch, name, draw in drawn:
        if draw.get("itl_tenths_ms") and batch == 1:
            positions.plot([5 + 10 * i for i in range(10)], draw["itl_tenths_ms"], label=name)
    batches.set(title="ms an image, by images at once", ylim=(0, None))
    positions.set(title="ms a step, by % of the image", ylim=(0, None))
    for axis in (batches, positions):
        axis.set_ylim(0, 1.4 * axis.get_ylim()[1])  # room for the legend
        axis.legend(fontsize=7, loc="upper left")


def main() -> None:
    """Parse the command line, read the records, write report and plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("peers", "latency", "report", "plot"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--gpu", type=Path, help="RESULT.json of scripts/gpu-check")
    options = parser.parse_args()
    try:
        lines, others = (
            _lines(options.peers, "peers/1"),
            _lines(options.latency, "bench/1", "bench/2"),
        )
        gpu = [section(json.loads(options.gpu.read_text(encoding="utf-8")))] if options.gpu else []
    except (OSError, ValueError) as error:
        sys.exit(f"report: no records to read: {error}; measure first")
    peers = newest(lines, lambda record: record["work"])
    own = newest(others, lambda record: [record["settings"], _bundles(record)])
    text = "\n".join(
        [
            "# Report\n",
            "Made by `bench/programs/peers/report.py` from `bench/records`. Ratios are within "
            "one run.\n",
            f"![plot]({options.plot.name})\n",
            *map(side_by_side, peers),
            *gpu,
            alone(own),
        ]
    )
    with atomic_write(options.report) as part:
        part.write_text(text, encoding="utf-8")
    plot(peers, own, options.plot)


if __name__ == "__main__":
    main()
