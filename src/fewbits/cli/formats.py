"""``fewbits formats``: the catalogue, one format on a sheet; `compare` has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewbits.cli.arguments import must_not_exist
from fewbits.cli.formats_compare import compare
from fewbits.cli.output import columns, show, tell

if TYPE_CHECKING:
    from fewbits.formats.scaled import Format
    from fewbits.report.formats import Catalogue

_STDOUT = Path("-")

Json = Annotated[
    Path | None,
    typer.Option(
        help="Also write everything to this file; - writes it to standard output in place of the text.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file of --json.")]

_NEXT = "Next: fewbits formats show fp8_e4m3, or fewbits formats compare model.onnx"

app = typer.Typer(help="Show the number formats: what they cost, what they hold, where they run natively.")


@app.callback(invoke_without_command=True)
def formats(context: typer.Context, json: Json = None, force: Force = False) -> None:
    """Show the number formats: what they cost, what they hold, where they run natively.

    Without a command: list.
    """
    if context.invoked_subcommand is None:
        list_formats(json, force)


@app.command("list")
def list_formats(json: Json = None, force: Force = False) -> None:
    """List the formats that have a name, and how the others are written."""
    from fewbits.formats.catalog import CATALOGUE
    from fewbits.report.formats import render

    found = _catalogue(tuple(CATALOGUE.values()), json, force)
    if json != _STDOUT:
        show(f"{render(found, columns())}\n{_NEXT}\n")


@app.command("show")
def show_formats(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="For example fp8_e4m3, int4r/g128.", show_default=False)
    ],
    json: Json = None,
    force: Force = False,
) -> None:
    """Show fields, limits and codes of each format NAME."""
    from fewbits.formats.text import parse
    from fewbits.report.format_sheet import sheet

    chosen = tuple(parse(name) for name in names)
    found = _catalogue(chosen, json, force)
    if json != _STDOUT:
        shown = zip(chosen, found.formats, strict=True)
        show("\n".join(sheet(format, entry.native, columns()) for format, entry in shown))


app.command("compare")(compare)


def _catalogue(chosen: Sequence[Format], json: Path | None, force: bool) -> Catalogue:
    """`chosen` formats on this machine; also written to `json` if it is given."""
    from pydantic import TypeAdapter

    from fewbits.formats.describe import describe
    from fewbits.native import native, on_machine
    from fewbits.report.formats import Catalogue, Entry
    from fewbits.store import write_file
    from fewbits.targets.gpu_probe import gpus
    from fewbits.targets.probe import this_machine

    if json is not None and json != _STDOUT:
        must_not_exist(json, force=force)
    machine, devices = this_machine(), gpus()
    has = on_machine(machine.features, devices)
    found = Catalogue(machine, devices, tuple(Entry(describe(format), native(format, has)) for format in chosen))
    if json is not None:
        text = TypeAdapter(Catalogue).dump_json(found, indent=2) + b"\n"
        if json == _STDOUT:
            show(text.decode())
        else:
            write_file(json, text)
            tell(f"wrote {json}")
    return found
