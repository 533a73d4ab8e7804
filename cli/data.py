"""``janus-edge data``: build and check the shards that a training reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from janus_edge.cli.options import Json, Worlds, user_path

if TYPE_CHECKING:
    from janus_edge.data.check import RoleCount

_MOST_NAMED = 20  # broken samples on the terminal
data = typer.Typer(rich_markup_mode=None, help="Build and check training data.")


class Roles(StrEnum):
    """What samples are trained for."""

    understanding = "understanding"
    text = "text"
    generation = "generation"
    class_prompts = "class_prompts"


@data.callback()
def _group() -> None:
    """Keep the commands in a group."""


@data.command("build")
def build(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of images with a .txt or .json beside each, or a .csv, .jsonl or .json."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder of roles; its folder ROLE is written.")],
    role: Annotated[Roles | None, typer.Option(help="Default: what most rows serve for.")] = None,
    samples_per_shard: Annotated[
        int, typer.Option(help="The most samples of a shard, which has 1 GB at most.", min=1)
    ] = 10_000,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace shards that an earlier build wrote there.")
    ] = False,
) -> None:
    """Build WebDataset shards of one role.

    Broken rows are skipped and named.
    """
    from janus_edge.data.build import build_shards
    from janus_edge.runtime.stop import keeping

    with keeping(lambda: "no shards were written"):
        built = build_shards(
            source,
            out,
            role=None if role is None else role.value,
            samples_per_shard=samples_per_shard,
            replace=replace,
            report=typer.echo,
        )
    if built.num_others:
        typer.echo(f"left out: {built.num_others} rows that serve in other roles alone")
    if built.skipped:
        typer.echo(
            f"skipped: {len(built.skipped)} broken row{'s' * (len(built.skipped) != 1)}, "
            f"all in {built.folder}/skipped.jsonl"
        )
        _name(dict(built.skipped))
    typer.echo(f"{built.folder}: {_in_shards(built.num_samples, len(built.shards))}")


@data.command("world")
def world(
    name: Annotated[Worlds, typer.Argument(help="What is drawn: shapes, or everyday things.")],
    out: Annotated[Path, typer.Argument(help="Folder of roles; a folder per role is written.")],
    scenes: Annotated[
        int, typer.Option(help="Scenes of all roles together.", min=10, max=10**8)
    ] = 100_000,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace shards that an earlier build wrote there.")
    ] = False,
) -> None:
    """Draw a world that the small models learn, with captions and questions, as shards."""
    from janus_edge.runtime.stop import keeping
    from janus_edge.train.worlds import write_world

    with keeping(lambda: "a role that was not finished was not written"):
        write_world(name.value, out, scenes, replace=replace, report=typer.echo)


@data.command("check")
def check(
    path: Annotated[
        Path, typer.Argument(help="A shard, a folder of shards or of roles, or a .toml file.")
    ],
    json: Json = False,
) -> None:
    """Read every sample and say what there is.

    A broken sample is named, and makes the exit code 1.
    """
    from janus_edge.cli.json_output import print_json
    from janus_edge.data.check import check_data
    from janus_edge.data.errors import DataError

    found = check_data(path, report=lambda line: None if json else typer.echo(line))
    if json:
        roles = {name: count.document() for name, count in found.items()}
        print_json({"path": path, "roles": roles})
    else:
        for name, count in found.items():
            _show(name, count)
    if broken := sum(len(count.broken) for count in found.values()):
        of = sum(count.num_samples for count in found.values())
        raise DataError(f"{path}: {broken} broken of {of} samples; a training skips them")


@data.command("show")
def show(
    path: Annotated[
        Path, typer.Argument(help="A shard, a folder of shards or of roles, or a .toml file.")
    ],
    number: Annotated[int, typer.Option("-n", "--number", help="Samples per role.", min=1)] = 8,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Save the images in a grid, as a training sees them: PNG, JPEG or WebP.",
            metavar="FILE",
            parser=user_path,
        ),
    ] = None,
) -> None:
    """Show the first samples of each role: names, texts, and images on a sheet."""
    from janus_edge.cli.terminal import one_line
    from janus_edge.data.sheet import show_data
    from janus_edge.runtime.output import is_standard_output

    err = output is not None and is_standard_output(output)
    show_data(path, number, output, lambda line: typer.echo(one_line(line, 160), err=err))


def _show(name: str, count: RoleCount) -> None:
    """Print what a role holds."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(count.kinds.items()))
    of = _in_shards(count.num_samples, count.num_shards)
    boxed = f", {count.num_boxed} of them with labelled boxes" if count.num_boxed else ""
    typer.echo(f"{name}: {of}: {kinds or 'none is whole'}{boxed}")
    if count.smallest and count.largest:
        sizes = " to ".join(
            f"{width}x{height}" for width, height in (count.smallest, count.largest)
        )
        typer.echo(f"  images      {sizes} px")
    if lengths := count.quantiles():
        typer.echo(f"  characters  {', '.join(f'{at} {n}' for at, n in lengths.items())}")
    if count.broken:
        typer.echo(f"  broken      {len(count.broken)}")
        _name(count.broken)


def _in_shards(num_samples: int, num_shards: int) -> str:
    return (
        f"{num_samples} sample{'s' * (num_samples != 1)} in "
        f"{num_shards} shard{'s' * (num_shards != 1)}"
    )


def _name(broken: dict[str, str]) -> None:
    """Print the first broken samples, each on a line."""
    from janus_edge.cli.terminal import one_line

    for name, reason in list(broken.items())[:_MOST_NAMED]:
        typer.echo(f"  {one_line(f'{name}: {reason}', 200)}")
    if len(broken) > _MOST_NAMED:
        typer.echo(f"  and {len(broken) - _MOST_NAMED} more")
