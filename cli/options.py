"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu, cuda, or another provider; cuda:1 is the second GPU."
    ),
]
