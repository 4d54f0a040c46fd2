"""The command line. Each command has a file of its own; this one ties them together and turns errors
into one paragraph and an exit code.

=====  ===================================================================
code   meaning
=====  ===================================================================
0      done; for ``tune``: the budget is met
1      something outside failed while working (disk full, a process died)
2      what was given cannot be used; nothing was changed
3      ``tune``: the budget cannot be reached, the best found is saved
4      ``tune``: nothing beats the original, which is kept
130    stopped with Ctrl-C
=====  ===================================================================
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from fewbits import __about__
from fewbits.cli import bench, convert, costs, demo, doctor, explain, formats, inspect, report, run, saturation, tune
from fewbits.cli.output import complain, show
from fewbits.errors import FewbitsError

_TRACEBACK = "--traceback"

app = typer.Typer(
    help="Find the fewest bits that a model can bear, by measuring.",
    epilog="Exit codes: 0 done or budget met, 1 tool error, 2 wrong usage, 3 budget unreachable, 4 original kept, "
    "130 Ctrl-C. More: fewbits COMMAND --help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(tune.tune)
app.command()(inspect.inspect)
app.command()(convert.convert)
app.command()(run.run)
app.command()(bench.bench)
app.command()(report.report)
app.command()(explain.explain)
app.command()(saturation.saturation)
app.command()(doctor.doctor)
app.add_typer(formats.app, name="formats")
app.add_typer(costs.app, name="costs")
app.command()(demo.demo)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments` (by default those of this process); always ends in SystemExit."""
    given = tuple(sys.argv[1:] if arguments is None else arguments)
    words = tuple(word for word in given if word != _TRACEBACK)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks must not end a run of hours.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=words, prog_name="fewbits", obj=words)
    except FewbitsError as error:
        if _TRACEBACK in given:
            raise
        complain(str(error))
        sys.exit(error.exit_code)


def _show_version(wanted: bool) -> None:
    if wanted:
        show(f"fewbits {__about__.VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
