"""Tunes every model of the set for latency: ``python benchmarks/latency.py [--only NAME] [--quick]``.

Batch 1, two threads. Writes ``benchmarks/results/latency.json``: per model the outcome, the speed-up with its
interval and raw blocks, the output error on held-out inputs, sizes, evaluations, tuning seconds, and the kernels
that ran. ``--quick`` is a smoke run: the two small models, and nothing is written to the results.
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
from suite import SUITE, THREADS, Member

QUICK = ("mobilenetv2", "minilm")


def tune(member: Member, folder: Path) -> fewbits.Result:
    """Tune `member` into its run directory in `folder`."""
    with stderr_progress() as progress:
        return fewbits.tune(
            member.model(folder),
            member.data(folder),
            calibration=member.calibration(folder),
            evaluate=minilm.Agreement.load(folder) if member.name == "minilm" else member.metric,
            max_loss=member.max_loss,
            threads=THREADS,
            batch=1,
            out=run_folder(member, folder),
            force=True,
            progress=progress,
        )


def run_folder(member: Member, folder: Path) -> Path:
    """Where the run of `member` lies."""
    return folder / "runs" / member.name


def measure(member: Member, folder: Path) -> results.Tuned:
    """Tune `member` and take its output error."""
    result = tune(member, folder)
    inputs = member.held_out(folder)
    original = output(member.model(folder), inputs, THREADS)
    found = output(run_folder(member, folder) / "model.onnx", inputs, THREADS, result.target)
    return results.Tuned(
        name=member.name,
        title=member.title,
        note=member.note,
        relative_error=relative_error(found, original),
        record=result.record,
        taken=results.Taken.now(this_machine(results.PACKAGES)),
    )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Tune the benchmark models and store what came out.")
    parser.add_argument("--dir", type=Path, default=minilm.CACHE, help="where models.py put them (%(default)s)")
    parser.add_argument("--only", choices=tuple(SUITE), action="append", help="only this model; may be repeated")
    parser.add_argument("--quick", action="store_true", help="smoke run: two small models, nothing stored")
    arguments = parser.parse_args()
    for name in arguments.only or (QUICK if arguments.quick else SUITE):
        row = measure(SUITE[name], arguments.dir)
        record = row.record
        print(f"{row.title}: {record.outcome}, {record.evaluations} evaluations, error {row.relative_error:.3f}")
        if record.latency:
            for candidate, speedup in record.latency.speedups.items():
                print(f"  {candidate}: {speedup.value:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]")
        if not arguments.quick:
            results.add_latency(row)


if __name__ == "__main__":
    main()
