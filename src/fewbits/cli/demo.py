"""``fewbits demo``."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli import arguments
from fewbits.cli.output import show, tell
from fewbits.console import stderr_progress

_MAX_LOSS = "0.005"


def demo(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the run; by default a new one, runs/demo.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start anew in a directory that holds a run.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Tune the embedded model, a small CNN that reads digits, to at most 0.5 points of accuracy lost."""
    from fewbits import flow
    from fewbits.demo import demo_calibration, demo_data, demo_model
    from fewbits.report.text import summary

    place = _free(Path("runs/demo")) if out is None else out
    tell(
        f"fewbits tune {demo_model().name} --data {demo_data().name} --calibration {demo_calibration().name} "
        f"--metric accuracy --max-loss {_MAX_LOSS} --out {place}"
    )
    try:
        with stderr_progress() as progress:
            result = flow.tune(
                demo_model(),
                str(demo_data()),
                calibration=str(demo_calibration()),
                evaluate="accuracy",
                max_loss=_MAX_LOSS,
                out=place,
                force=force,
                resume=resume,
                progress=progress,
            )
    except KeyboardInterrupt as stop:
        words = context.obj if out is not None else (*context.obj, "--out", str(place))
        tell(f"\nStopped. Go on with:\n  {arguments.resuming(words)}")
        raise typer.Exit(130) from stop
    show(summary(result.record))
    show(f"\nRun: {place}  (whole report: fewbits report {place})")


def _free(path: Path) -> Path:
    """`path`, or the first of `path`-2, `path`-3, … that is not taken."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not path.exists() else next(one for one in numbered if not one.exists())
