"""Names of the files that ``generate`` writes."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from pathlib import Path

from janus_edge.runtime.errors import OptionError

FIELDS = ("n", "seed")  # of a name's template


def names_of(output: Path, seeds: list[int]) -> list[Path]:
    """Return the file of each image: a template's, or the name with numbers added to several.

    Args:
        output: A name, or a template such as ``{n}-{seed}.png``.
        seeds: Seed of each image.

    Raises:
        OptionError: The template has another field, or gives two images one name.
    """
    fields = _fields(output)
    if not fields:
        if len(seeds) == 1:
            return [output]
        return [output.with_stem(f"{output.stem}-{number}") for number in range(1, len(seeds) + 1)]
    if unknown := [field for field in fields if field not in FIELDS]:
        raise OptionError(
            f"{output}: {{{unknown[0]}}} is no field; a name takes {{n}}, the image's number, and "
            "{seed}"
        )
    if any(field == "" or conversion for _, field, _, conversion in _parts(output)):
        raise OptionError(f"{output}: a name takes {{n}} and {{seed}}; leave other braces out")
    widths = [width for _, _, width, _ in _parts(output) if width]
    if wrong := [width for width in widths if not re.fullmatch("0[1-9]", width)]:
        raise OptionError(f"{output}: {wrong[0][:20]!r} is no width; write {{n:03}}, for 001")
    names = [Path(str(output).format(n=n, seed=seed)) for n, seed in enumerate(seeds, 1)]
    if len(set(names)) < len(names):
        raise OptionError(f"{output}: gives several images one name; add {{n}}")
    return names


def _fields(output: Path) -> list[str]:
    """Return the fields of a template; none of a name without any, or with other braces."""
    try:
        return [field for _, field, _, _ in _parts(output) if field]
    except ValueError:
        return []


def _parts(output: Path) -> Iterable[tuple[str, str | None, str | None, str | None]]:
    """Return text, field, width and conversion of each part of a template. Raises ValueError."""
    return string.Formatter().parse(str(output))
