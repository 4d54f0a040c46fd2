"""Tunes MiniLM for size: ``python benchmarks/smallest.py [--effort low|medium|high]``.

Weights in 4 and 8 bits, mixed by the search, at a retrieval agreement of at least 0.95. Writes
``benchmarks/results/size.json``. Size and agreement do not depend on how busy the machine is; tuning time does, and the
latency that is stored with them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fewbits
import minilm
import results
from fewbits.console import stderr_progress
from fewbits.targets.probe import this_machine
from output_error import output, relative_error
from suite import SUITE, THREADS


def main() -> None:
    """Tune, store and print."""
    parser = argparse.ArgumentParser(description="Tune MiniLM for size and store what came out.")
    parser.add_argument("--dir", type=Path, default=minilm.CACHE, help="where models.py put it (%(default)s)")
    parser.add_argument("--effort", default="medium", help="as of fewbits tune (%(default)s)")
    arguments = parser.parse_args()
    member, folder = SUITE["minilm"], arguments.dir / "runs" / "minilm-size"
    with stderr_progress() as progress:
        result = fewbits.tune(
            member.model(arguments.dir),
            member.data(arguments.dir),
            calibration=member.calibration(arguments.dir),
            evaluate=minilm.Agreement.load(arguments.dir),
            max_loss=member.max_loss,
            objective="size",
            effort=arguments.effort,
            threads=THREADS,
            out=folder,
            force=True,
            progress=progress,
        )
    inputs = member.held_out(arguments.dir)
    original = output(member.model(arguments.dir), inputs, THREADS)
    found = output(folder / "model.onnx", inputs, THREADS, result.target)
    row = results.Tuned(
        name=member.name,
        title=member.title,
        note=member.note,
        relative_error=relative_error(found, original),
        record=result.record,
        taken=results.Taken.now(this_machine(results.PACKAGES)),
    )
    results.add_latency(row, results.FOLDER / "size.json")
    record = row.record
    agreement = record.accuracy.tuned.value if record.accuracy else 1.0
    print(f"{record.outcome}: {record.tuned_bytes / record.original_bytes:.3f}x of the file, agreement {agreement:.4f}")


if __name__ == "__main__":
    main()
