"""``fewbits explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli.output import show


def explain(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.", show_default=False)],
    group: Annotated[
        str, typer.Option(metavar="TEXT", help="Only groups whose names hold this text.", show_default=False)
    ] = "",
) -> None:
    """Show why groups of a stored run lose accuracy, what was tried against it, and what that bought."""
    from fewbits.report.explain_text import render_explanations
    from fewbits.store import read_record

    show(render_explanations(read_record(run), group))
