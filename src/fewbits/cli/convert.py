"""``fewbits convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli.arguments import Model, must_not_exist
from fewbits.cli.output import show, tell
from fewbits.errors import UsageError
from fewbits.report.words import readable_bytes


def convert(
    model: Model,
    plan: Annotated[Path, typer.Option(help="The plan.json of a run.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite what is there, and apply the plan to other weights, too.")
    ] = False,
) -> None:
    """Apply a plan to MODEL, without searching again."""
    from fewbits import flow
    from fewbits.plan import Plan

    if out.resolve() in (model.resolve(), plan.resolve()):
        raise UsageError(f"--out {out} is the file that is read; choose another name")
    must_not_exist(out, force=force)
    found = Plan.load(plan)
    artifact = flow.convert(model, plan, force=force)
    remark = flow.elsewhere(found)
    if remark:
        tell(remark)
    if artifact.outside:
        must_not_exist(out.with_name(f"{out.name}.data"), force=force)
    files = flow.save(artifact, out)
    show(f"{' and '.join(str(file) for file in reversed(files))}: {readable_bytes(artifact.size)}")
