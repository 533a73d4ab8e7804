"""What ``generate`` is asked to draw: prompts of the command line, of a file, or of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from janus_edge.cli.standard_input import prompts_from, prompts_of


def requests_of(
    prompts: list[str] | None, file: Path | None, like: Path | None, given: dict[str, Any]
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the values of each ImageRequest, and the name of the model that an image names.

    Args:
        prompts: Prompts of the command line.
        file: Lines, or JSON lines with settings per prompt.
        like: An image whose prompt, seed and settings are taken.
        given: Settings of the command line, None where not given. They go before the image's, and
            a line's own go before them.

    Raises:
        BadParameter: There is nothing to draw.
        JanusEdgeError: A file cannot be read, or says what no request takes.
    """
    from janus_edge.runtime.drawn import settings_in

    base = settings_in(like) if like is not None else {}
    named = base.pop("model", None)
    base.pop("model_sha256", None)
    drawn = str(base.pop("prompt", ""))
    base |= {name: value for name, value in given.items() if value is not None}
    found: list[dict[str, Any]] = []
    if prompts:
        found.append(base | {"prompt": prompts_from(prompts)})
    if file is not None and file.suffix in (".jsonl", ".ndjson"):
        found += [base | each for each in _of_lines(file)]
    elif file is not None:
        found.append(base | {"prompt": tuple(prompts_of(file))})
    if not found and drawn:
        found.append(base | {"prompt": drawn})
    if not found:
        raise typer.BadParameter("nothing to draw: give a prompt, --prompts FILE or --like IMAGE")
    return found, named


def _of_lines(file: Path) -> list[dict[str, Any]]:
    """Return the objects of JSON lines; raise OptionError that names the line."""
    from janus_edge.runtime.errors import OptionError
    from janus_edge.runtime.json_text import parse_json
    from janus_edge.runtime.requests import SETTINGS

    known = {"prompt", "seed", "num_images", "reference", "fast", *SETTINGS}
    found = []
    for number, line in enumerate(prompts_of(file), 1):
        try:
            each = parse_json(line)
        except (ValueError, RecursionError):
            each = None
        if not isinstance(each, dict) or not isinstance(each.get("prompt"), str):
            raise OptionError(
                f'{file}: prompt {number} is no JSON object with one "prompt"; write '
                '{"prompt": "a red apple", "seed": 7}'
            )
        if unknown := sorted(set(each) - known):
            raise OptionError(
                f"{file}: prompt {number} has {unknown[0]}; it takes {', '.join(sorted(known))}"
            )
        found.append(each)
    return found
