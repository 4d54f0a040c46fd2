"""A comparison of number formats as a picture: a heat map of SQNR, and magnitudes over the formats' ranges.

Needs matplotlib, ``pip install fewbits[report]``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import inf, isfinite, log2

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fewbits.comparison import Cell, FormatComparison, Row
from fewbits.report.comparison import decibel_text
from fewbits.report.words import shortened

SUFFIXES = (".svg", ".png")
"""Endings of the pictures that can be made."""

_ROWS = 40
_PANELS = 3
_TOP_DB = 60.0
_NAME = 44
_LEAST_BAR = 0.1
"""What the bar of a format with a single magnitude is drawn as, in octaves."""
_UNDATED: Mapping[str, dict[str, None]] = {".svg": {"Date": None}, ".png": {}}


def draw(comparison: FormatComparison, suffix: str, *, chosen: bool) -> bytes:
    """`comparison` as a picture of the kind `suffix` (``.svg`` or ``.png``), the same bytes every time.

    The heat map has at most 40 tensors, those with the lowest mean SQNR. Below it stand the magnitudes of
    the tensor with the lowest mean, or of the lowest three if the user has `chosen` tensors.
    """
    ordered = comparison.rows if len(comparison.rows) <= _ROWS else comparison.worst_first[:_ROWS]
    panels = comparison.worst_first[: _PANELS if chosen else 1]
    # Text stays text, and the names inside of an SVG do not depend on chance: the same figures give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fewbits", "font.size": 8.0}):
        figure = _figure(comparison, ordered, panels)
        target = io.BytesIO()
        figure.savefig(target, format=suffix.removeprefix("."), dpi=150, metadata=_UNDATED[suffix])
    return target.getvalue()


def _figure(comparison: FormatComparison, rows: Sequence[Row], panels: Sequence[Row]) -> Figure:
    formats = comparison.formats
    heat_height = 1.3 + 0.2 * len(rows)
    panel_height = 1.6 + 0.16 * len(formats)
    figure = Figure(figsize=(10.0, heat_height + panel_height * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    heights = [heat_height, *(1.4, panel_height - 1.4) * len(panels)]
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _heat_map(axes[0], comparison, rows)
    for place, row in enumerate(panels):
        _magnitudes(axes[1 + 2 * place], axes[2 + 2 * place], formats, row)
    return figure


def _heat_map(axes: Axes, comparison: FormatComparison, rows: Sequence[Row]) -> None:
    values = np.array([[_sqnr(cell) for cell in row.cells] for row in rows])
    shown = np.ma.masked_invalid(np.clip(values, 0.0, _TOP_DB))
    image = axes.imshow(shown, cmap="viridis", vmin=0.0, vmax=_TOP_DB, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        text = "-" if np.isnan(value) else "=" if value == inf else decibel_text(float(value), 0)
        dark = not np.isnan(value) and value < 0.55 * _TOP_DB
        axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    axes.set_xticks(range(len(comparison.formats)), comparison.formats, rotation=40, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), [shortened(row.name, _NAME) for row in rows])
    axes.tick_params(length=0)
    count = len(comparison.rows)
    which = f" (the {len(rows)} tensors with the lowest mean of {count})" if count > len(rows) else ""
    axes.figure.colorbar(image, ax=axes, label="SQNR, dB", fraction=0.03, pad=0.01)
    axes.set_xlabel(f"SQNR in dB{which}; =: exact, -: not applied")


def _magnitudes(above: Axes, below: Axes, formats: Sequence[str], row: Row) -> None:
    """Over each other: how many elements have a magnitude, and which magnitudes each format holds."""
    octaves = row.octaves
    exponents = np.arange(octaves.first, octaves.first + len(octaves.counts))
    shares = [100 * count / max(row.elements, 1) for count in octaves.counts]
    above.bar(exponents + 0.5, shares, width=0.9, color="#414487")
    above.set_yscale("log")
    above.set_ylim(bottom=min((share for share in shares if share > 0), default=1.0) / 2)
    above.set_ylabel("% of elements")
    zeros = f", {octaves.zeros:,} zeros" if octaves.zeros else ""
    above.set_title(f"{shortened(row.name, 70)} ({' x '.join(map(str, row.shape)) or 'scalar'}{zeros})", fontsize=9)
    held = {
        format: cell.span
        for format, cell in zip(formats, row.cells, strict=True)
        if isinstance(cell, Cell) and isfinite(cell.span.largest)
    }
    for place, span in enumerate(held.values()):
        below.plot([log2(span.lowest), log2(span.highest)], [place, place], color="#555555", linewidth=1, zorder=1)
        length = max(log2(span.largest / span.smallest), _LEAST_BAR)
        below.barh(place, length, left=log2(span.smallest), height=0.6, color="#22a884", zorder=2)
    below.set_yticks(range(len(held)), held)
    below.set_ylim(len(held) - 0.4, -0.6)
    low, high = _window(row)
    for axes in (above, below):
        axes.set_xlim(low, high)
        axes.grid(axis="x", linewidth=0.3)
        axes.set_axisbelow(True)
    above.tick_params(labelbottom=False)
    below.set_xlabel("log2 |x|; bar: from the smallest to the largest value of the median tile, line: over all tiles")


def _window(row: Row) -> tuple[float, float]:
    """What of the axis is worth showing: the tensor, and the ranges around it as far as 12 octaves."""
    octaves = row.octaves
    low, high = float(octaves.first), float(octaves.first + max(len(octaves.counts), 1))
    spans = [cell.span for cell in row.cells if isinstance(cell, Cell) and isfinite(cell.span.largest)]
    lowest = min((log2(span.lowest) for span in spans), default=low)
    highest = max((log2(span.highest) for span in spans), default=high)
    return max(min(low, lowest), low - 12) - 1, min(max(high, highest), high + 12) + 1


def _sqnr(cell: object) -> float:
    return cell.fidelity.sqnr if isinstance(cell, Cell) else float("nan")
