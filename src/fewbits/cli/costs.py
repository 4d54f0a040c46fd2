"""``fewbits costs``: the measured costs that are kept, and how to forget them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewbits.cli.output import columns, show, tell
from fewbits.errors import StorageError, UsageError
from fewbits.report.table import paragraph, table
from fewbits.report.words import readable_bytes, shortened, significant

if TYPE_CHECKING:
    from fewbits.costs.cache import CostCache
    from fewbits.costs.key import CostRow

_OP, _SHAPES, _FEWEST_SHAPES, _OTHERS = 12, 40, 16, 74

app = typer.Typer(help="Show or forget the measured costs that are kept from run to run.")


@app.callback(invoke_without_command=True)
def costs(
    context: typer.Context,
    target: Annotated[
        str, typer.Option(help="Only rows of this target; wildcards match several.", show_default=False)
    ] = "",
    scheme: Annotated[
        str,
        typer.Option(help="Only rows of this scheme, for example 'w:int8r/* a:*'.", show_default=False),
    ] = "",
    limit: Annotated[int, typer.Option(min=0, help="Rows to show; 0 shows all.")] = 50,
) -> None:
    """Show the measured costs that are kept from run to run: what a region of a model took in a scheme, and where.

    They lie in one file, in $FEWBITS_CACHE or the user's cache folder.
    """
    if context.invoked_subcommand is not None:
        if target or scheme:
            raise UsageError(f"give options behind the command: fewbits costs {context.invoked_subcommand} ...")
        return
    path = _path()
    if not path.is_file():
        show(_nothing_at(path))
        return
    with _opened(path) as cache:
        rows = cache.rows(target=target, scheme=scheme)
    show(describe(rows[:limit] if limit else rows, len(rows), path, path.stat().st_size, columns()))


@app.command()
def clear(
    target: Annotated[
        str, typer.Option(help="Only rows of this target; wildcards match several.", show_default=False)
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget the measured costs, or those of one target; they are measured again when they are needed."""
    path = _path()
    if not path.is_file():
        show(_nothing_at(path))
        return
    with _opened(path) as cache:
        count = len(cache.rows(target=target))
        said = f"No costs{f' of {target}' if target else ''} are stored in {path}."
        if count:
            said = "Nothing was changed."
            if yes or _agreed(f"Forget {_rows(count)} in {path}?"):
                said = f"Forgot {_rows(cache.clear(target=target, everything=not target))} in {path}."
    show(said)


def describe(rows: Sequence[CostRow], found: int, path: Path, size: int, width: int) -> str:
    """`rows` of the `found` ones in the file at `path` of `size` bytes, as text of at most `width` columns."""
    lines: list[str] = []
    for head, members in groupby(rows, _heading):
        lines += [*paragraph(head, "  ", width), *_table(tuple(members), width), ""]
    more = "" if len(rows) == found else f", {len(rows)} of them shown (--limit 0 shows all)"
    # The place stands on a line of its own, whole, so that it can be copied.
    return "\n".join([*lines, f"{_rows(found)}{more}, {readable_bytes(size)}:", str(path)]) + "\n"


def _heading(row: CostRow) -> str:
    key = row.key
    machine = " ".join(part for part in (key.cpu, key.features) if part)
    threads = "1 thread" if key.threads == 1 else f"{key.threads} threads"
    return f"{key.scheme} on {key.target} {key.target_version}; {machine}, {threads}"


def _table(rows: Sequence[CostRow], width: int) -> list[str]:
    shapes = min(max(width - _OTHERS, _FEWEST_SHAPES), _SHAPES)
    cells = []
    for row in rows:
        key, cost = row.key, row.cost
        ran = f"{cost.kernel} in {cost.precision}" if cost.precision else cost.kernel
        ran = f"refused: {cost.refusal}" if cost.refusal else ran
        beside = f", beside {key.neighbours}" if key.neighbours else ""
        figures = ("-",) * 3 if cost.refusal else tuple(map(_microseconds, (cost.entry, cost.compute, cost.exit)))
        cells.append((shortened(key.op, _OP), shortened(key.signature, shapes), *figures, cost.taken, f"{ran}{beside}"))
    return table(("op", "shapes", "entry us", "compute", "exit", "taken", "ran"), cells, right=(2, 3, 4), width=width)


def _microseconds(seconds: float) -> str:
    return significant(seconds * 1e6)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _nothing_at(path: Path) -> str:
    return f"No costs are stored yet; there is no file {path}."


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is nobody to ask; say it with --yes")
    return typer.confirm(question)


def _path() -> Path:
    from fewbits.costs.place import default_path

    return default_path(os.environ, Path.home())


@contextmanager
def _opened(path: Path) -> Iterator[CostCache]:
    """The costs at `path`; behind it, what there is to say about the file is told. Raises StorageError if there was no
    reading or writing it: whoever asks for what is kept is not served by a memory that is empty."""
    from fewbits.costs.cache import CostCache

    with CostCache.open(path) as cache:
        yield cache
        if cache.in_memory:
            raise StorageError(" ".join(cache.remarks))
        for remark in cache.remarks:
            tell(remark)
