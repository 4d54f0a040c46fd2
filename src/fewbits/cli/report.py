"""``fewbits report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli.output import show


def report(run: Annotated[Path, typer.Argument(help="The directory of a finished run.", show_default=False)]) -> None:
    """Show the report of a stored run; neither the model nor a runtime is needed."""
    from fewbits.report.text import render
    from fewbits.store import read_record

    show(render(read_record(run)))
