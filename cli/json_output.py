"""``--json``: one document on standard output; docs/cli.md lists its keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

from janus_edge.runtime.json_text import plain


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as one line of ASCII, in any locale; null for NaN and infinity."""
    typer.echo(json.dumps(plain(document), allow_nan=False))
