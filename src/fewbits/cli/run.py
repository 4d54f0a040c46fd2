"""``fewbits run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli.arguments import Data, Force, Target, Threads, must_not_exist
from fewbits.cli.output import show
from fewbits.console import stderr_progress


def run(
    source: Annotated[
        Path, typer.Argument(help="The directory of a finished run, or an .onnx or .pt file.", show_default=False)
    ],
    data: Data,
    output: Annotated[Path, typer.Option(help="The .npz to write: one array per output.", show_default=False)],
    target: Target = "auto",
    threads: Threads = 0,
    batch: Annotated[int, typer.Option(min=1, help="Samples per call.")] = 16,
    force: Force = False,
) -> None:
    """Run the model of a run on the runtime that it was tuned for, or a file, and store its outputs.

    A .pt file holds code, as all that torch.load reads: run only what you trust.

    Example: fewbits run runs/my-model --data inputs.npz --output outputs.npz
    """
    from fewbits import flow
    from fewbits.data.npz import npz_bytes
    from fewbits.store import write_file

    must_not_exist(output, force=force)
    with stderr_progress() as progress:
        outputs = flow.run(source, data, target=target, threads=threads, batch=batch, progress=progress)
    write_file(output, npz_bytes(outputs))
    show(f"{output}: " + ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in outputs.items()))
