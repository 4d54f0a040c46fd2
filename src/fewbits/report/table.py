"""Plain tables and paragraphs for a fixed width, without colour."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), width: int = WIDTH
) -> list[str]:
    """The lines of a table of at most `width` columns; `right` are the columns that are set flush right.

    The last column wraps where the line would be too long.
    """
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="none")
    for number, header in enumerate(headers):
        last = number == len(headers) - 1
        shown.add_column(
            Text(header),
            justify="right" if number in right else "left",
            no_wrap=not last,
            overflow="fold",
        )
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    target = io.StringIO()
    Console(file=target, width=width, color_system=None, force_terminal=False, legacy_windows=False).print(shown)
    return [line.rstrip() for line in target.getvalue().splitlines()]


def paragraph(text: str, hang: str = "", width: int = WIDTH) -> list[str]:
    """The lines of `text`, wrapped at `width`, all but the first indented by `hang`."""
    return textwrap.wrap(text, width, subsequent_indent=hang, break_on_hyphens=False)


def heading(text: str) -> str:
    """`text` underlined."""
    return f"{text}\n{'-' * len(text)}"
