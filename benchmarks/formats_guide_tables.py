"""The tables of docs/formats.md, from what is stored; each stands between marks, as in benchmarks/table.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from formats_guide_store import Guide, Point
from table import MARKED, markdown, taken


def candidates(guide: Guide) -> str:
    """Formats by rows, distributions by columns."""
    points = guide.sections["candidates"]
    kinds = list(dict.fromkeys(point.values for point in points))
    formats = list(dict.fromkeys(point.format for point in points))
    found = {(point.format, point.values): point for point in points}
    rows = [
        (f"`{format}`", f"{found[format, kinds[0]].bits:.2f}", *(_db(found[format, kind].sqnr) for kind in kinds))
        for format in formats
    ]
    return markdown(("format", "bits", *(f"{kind}, dB" for kind in kinds)), rows)


def real(guide: Guide) -> str:
    """Every candidate on MiniLM's matrices."""
    points = guide.sections["real"]
    worst = {point.format: point for point in points if point.series == "worst"}
    rows = [
        (
            f"`{point.format}`",
            f"{point.bits:.2f}",
            _db(point.sqnr),
            _db(worst[point.format].sqnr),
            _share(point.clipped),
            _share(point.underflowed),
        )
        for point in points
        if point.series == "all"
    ]
    return markdown(("format", "bits", "SQNR, dB", "worst matrix, dB", "clipped", "to zero"), rows)


def granularity(guide: Guide) -> str:
    """int4r by granularity, on MiniLM and on samples."""
    points = guide.sections["granularity"]
    kinds = list(dict.fromkeys(point.values for point in points))
    found = {(point.format, point.values): point for point in points}
    rows = [
        (f"`{format}`", f"{found[format, kinds[0]].bits:.2f}", *(_db(found[format, kind].sqnr) for kind in kinds))
        for format in dict.fromkeys(point.format for point in points)
    ]
    return markdown(("format", "bits on MiniLM", *(f"{kind}, dB" for kind in kinds)), rows)


def rules(guide: Guide) -> str:
    """Blocks by rows, rules by columns, with the share that is clipped."""
    points = guide.sections["rules"]
    names = list(dict.fromkeys(point.series for point in points))
    rows = []
    for (kind, format), group in groupby(points, key=lambda point: (point.values, _plain(point))):
        by_rule = {point.series: point for point in group}
        cells = [f"{_db(by_rule[rule].sqnr)} ({_share(by_rule[rule].clipped)})" for rule in names]
        rows.append((kind, f"`{format}`", *cells))
    return markdown(("values", "format", *names), rows)


def stochastic(guide: Guide) -> str:
    """Nearest beside stochastic, once and averaged."""
    points = guide.sections["stochastic"]
    found = {(point.format, point.series): point for point in points}
    names = list(dict.fromkeys(point.series for point in points))
    count = max(point.x for point in points)
    heads = [f"mean of {count:.0f} stochastic" if name.startswith("mean") else name for name in names]
    rows = [
        (f"`{format}`", *(_db(found[format, name].sqnr) for name in names))
        for format in dict.fromkeys(point.format for point in points)
    ]
    return markdown(("format", *(f"{head}, dB" for head in heads)), rows)


TABLES: Mapping[str, Callable[[Guide], str]] = {
    "candidates": candidates,
    "real": real,
    "granularity": granularity,
    "rules": rules,
    "stochastic": stochastic,
    "taken": lambda guide: taken([guide.taken]),
}


def filled(text: str, guide: Guide) -> str:
    """`text` with every marked table made anew. Stops at a table that is not known."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise SystemExit(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
        return f"{match[1]}\n{TABLES[name](guide)}\n{match[3]}"

    return MARKED.sub(fill, text)


def _plain(point: Point) -> str:
    return point.format.removesuffix(f"-{point.series}")


def _db(value: float) -> str:
    return f"{value:.1f}"


def _share(value: float) -> str:
    return "-" if value == 0 else f"{value * 100:.2g} %"


__all__: Sequence[str] = ["TABLES", "filled"]
