"""A comparison of number formats as text: one line per format, then the worst tensors as a heat map."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from fewbits.comparison import Cell, FormatComparison, Refused, Row, Total
from fewbits.report.words import shortened, significant

_MIN_WIDTH = 80
_ROWS = 12
_CELL = 4
_NAME = 28
_FIGURES = 52
_LEAST_NAME = 20
_NAMES_SAID = 3
# Viridis, one colour for every 10 dB from 0 on: lightness rises with it, so that it reads without hue, too.
_COLOURS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
_DARK = 3


@dataclass(frozen=True, slots=True)
class Paper:
    """What is written on: its width in columns, and whether it shows colour."""

    width: int = _MIN_WIDTH
    colour: bool = False


PLAIN = Paper()


def render(comparison: FormatComparison, paper: Paper = PLAIN) -> str:
    """The whole comparison as text of at most ``paper.width`` columns (80 where that is less), ending with a newline.

    A format has a ``*`` where no other has as few bits and a higher SQNR. Of many tensors those with the
    lowest mean SQNR are shown.
    """
    target = io.StringIO()
    console = Console(
        file=target,
        width=max(paper.width, _MIN_WIDTH),
        force_terminal=paper.colour,
        color_system="256" if paper.colour else None,
        no_color=not paper.colour,
        legacy_windows=False,
        highlight=False,
        markup=False,
    )
    several = len(comparison.rows) > 1
    console.print(Text(_title(comparison)))
    console.print()
    console.print(_several(comparison, console.width) if several else _single(comparison))
    console.print()
    console.print(Text(_legend(several=several)))
    if several:
        shown = comparison.worst_first[:_ROWS] if len(comparison.rows) > _ROWS else comparison.rows
        console.print()
        console.print(Text(_heat_title(len(shown), len(comparison.rows))))
        for places in _blocks(len(comparison.formats), console.width):
            console.print()
            console.print(_heat_map(comparison, shown, places, console.width))
    for note in notes(comparison):
        console.print()
        console.print(Text(note))
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def notes(comparison: FormatComparison) -> list[str]:
    """What a reader of the figures must know besides: elements left out, tensors skipped, formats not applied."""
    found = []
    broken = [f"{row.name} ({row.nans:,} NaN, {row.infinities:,} Inf)" for row in _broken(comparison)]
    if broken:
        total = sum(row.nans + row.infinities for row in _broken(comparison))
        found.append(f"Left out because they are NaN or Inf: {_counted(total, 'element')}, in {_some(broken)}.")
    skipped: dict[str, list[str]] = {}
    for one in comparison.skipped:
        skipped.setdefault(one.reason, []).append(one.name)
    found += [
        f"Skipped {_counted(len(names), 'tensor')} ({reason}): {_some(names)}." for reason, names in skipped.items()
    ]
    for place, format in enumerate(comparison.formats):
        refused = [(row.name, cell) for row in comparison.rows if isinstance(cell := row.cells[place], Refused)]
        if refused:
            name, cell = refused[0]
            number = _counted(len(refused), "tensor")
            found.append(f"{format} was not applied to {number}, such as {name}: {cell.reason}.")
    return found


def heat(sqnr: float) -> Style:
    """The colours of a cell with this SQNR: dark violet at 0 dB and below, yellow from 50 dB on."""
    step = min(max(int(min(max(sqnr, 0.0), 60.0) // 10), 0), len(_COLOURS) - 1)
    return Style(color="#ffffff" if step < _DARK else "#000000", bgcolor=_COLOURS[step])


def decibel_text(sqnr: float, digits: int = 1) -> str:
    """``31.2``, or ``exact`` for no error."""
    return "exact" if sqnr == inf else f"{sqnr:.{digits}f}"


def _title(comparison: FormatComparison) -> str:
    elements = _counted(sum(row.elements for row in comparison.rows), "element")
    if len(comparison.rows) != 1:
        return f"{len(comparison.rows)} tensors, {elements}"
    row = comparison.rows[0]
    return f"{row.name}: {row.dtype}, {' x '.join(map(str, row.shape)) or 'scalar'}, {elements}"


def _legend(*, several: bool) -> str:
    text = (
        "SQNR: energy of the values over energy of the error, in dB; 6 dB halve the error. bits: of one element, "
        "scales included. clipped: beyond the format's largest value. to zero: what was not zero. "
        "*: no other format has as few bits and a higher SQNR. "
        "Tensors of more than two axes are taken as matrices, first axis by all others."
    )
    return f"{text} all: weighted by the number of elements." if several else text


def _several(comparison: FormatComparison, width: int) -> Table:
    totals = {total.format: total for total in comparison.totals}
    names = width - max(len(format) for format in comparison.formats) - _FIGURES
    named = names >= _LEAST_NAME
    shown = _table("#", "format", "bits", "all", "worst", "clipped", "to zero", left=(1,))
    if named:
        shown.add_column("worst tensor", no_wrap=True)
    for place, format in enumerate(comparison.formats):
        total = totals.get(format)
        if total is None:
            shown.add_row(str(place + 1), Text(format), *("-" for _ in range(5)))
            continue
        cells = (
            Text(str(place + 1)),
            Text(_marked(total, comparison)),
            Text(f"{total.bits:.2f}"),
            Text(decibel_text(total.sqnr), heat(total.sqnr)),
            Text(decibel_text(total.worst_sqnr), heat(total.worst_sqnr)),
            Text(share(total.clipped_share)),
            Text(share(total.underflowed_share)),
        )
        worst = Text("" if total.worst_sqnr == inf else shortened(total.worst, names))
        shown.add_row(*cells, *((worst,) if named else ()))
    return shown


def _single(comparison: FormatComparison) -> Table:
    shown = _table("format", "bits", "SQNR, dB", "clipped", "to zero", "max error", left=(0,))
    totals = {total.format: total for total in comparison.totals}
    for format in comparison.formats:
        total = totals.get(format)
        if total is None:
            shown.add_row(Text(format), *("-" for _ in range(5)))
            continue
        shown.add_row(
            Text(_marked(total, comparison)),
            f"{total.bits:.2f}",
            Text(decibel_text(total.sqnr), heat(total.sqnr)),
            share(total.clipped_share),
            share(total.underflowed_share),
            f"{total.max_error:.3g}",
        )
    return shown


def _heat_map(comparison: FormatComparison, rows: Sequence[Row], places: range, width: int) -> Table:
    name_width = width - _CELL * len(places)
    shown = Table(box=None, padding=0, pad_edge=False, header_style="none")
    shown.add_column("", no_wrap=True, width=name_width)
    for place in places:
        shown.add_column(str(place + 1), justify="right", no_wrap=True, width=_CELL)
    for row in rows:
        cells = [_cell(row.cells[place]) for place in places]
        shown.add_row(Text(shortened(row.name, name_width - 1)), *cells)
    return shown


def _cell(cell: Cell | Refused) -> Text:
    if isinstance(cell, Refused):
        return Text("-")
    sqnr = cell.fidelity.sqnr
    return Text("=" if sqnr == inf else decibel_text(sqnr, 0), heat(sqnr))


def _heat_title(shown: int, count: int) -> str:
    which = f"the {shown} tensors with the lowest mean of {count}" if shown < count else "every tensor"
    return f"SQNR in dB of {which}, by the numbers of the formats above (=: exact, -: not applied)"


def _blocks(formats: int, width: int) -> list[range]:
    """The columns of a heat map in as few blocks of like width as leave room for names."""
    most = max((width - _NAME) // _CELL, 1)
    blocks = -(-formats // most)
    size = -(-formats // max(blocks, 1))
    return [range(start, min(start + size, formats)) for start in range(0, formats, max(size, 1))]


def _table(*headers: str, left: tuple[int, ...]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="none")
    for place, header in enumerate(headers):
        shown.add_column(Text(header), justify="left" if place in left else "right", no_wrap=True)
    return shown


def share(value: float) -> str:
    """A share as a percentage of two digits; ``-`` for none, ``<0.01%`` for very few."""
    if value == 0:
        return "-"
    return "<0.01%" if value < 1e-4 else f"{significant(value * 100, 2)}%"


def _marked(total: Total, comparison: FormatComparison) -> str:
    best = any(one.format == total.format for one in comparison.worth_their_bits)
    return f"{total.format}{' *' if best else ''}"


def _broken(comparison: FormatComparison) -> list[Row]:
    return [row for row in comparison.rows if row.nans or row.infinities]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SAID
    return f"{', '.join(names[:_NAMES_SAID])}{f' and {more} more' if more > 0 else ''}"
