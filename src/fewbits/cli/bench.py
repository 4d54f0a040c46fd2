"""``fewbits bench``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from fewbits.cli.arguments import Data, Objective, Streams, Target, Threads, must_not_exist
from fewbits.cli.output import show, tell
from fewbits.console import stderr_progress
from fewbits.report.memory import peak, saving
from fewbits.report.rates import rate, rate_bounds, unit
from fewbits.report.spread import median_interval
from fewbits.report.table import paragraph, table
from fewbits.report.words import bounds, readable_bytes, shortened, significant

if TYPE_CHECKING:
    from fewbits.flow import BenchReport
    from fewbits.measurement import MemoryComparison


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(
            help=".onnx or .pt files, or directories of runs; the first is the baseline.", show_default=False
        ),
    ],
    data: Data,
    target: Target = "auto",
    threads: Threads = 0,
    batch: Annotated[int, typer.Option(min=1, help="Samples per call.")] = 1,
    objective: Annotated[
        str, typer.Option(metavar="latency|throughput|memory", help="What is compared; memory comes with latency.")
    ] = Objective.LATENCY.value,
    streams: Streams = 0,
    rounds: Annotated[int, typer.Option(min=7, help="Rounds of blocks before the first look at the intervals.")] = 8,
    json: Annotated[Path | None, typer.Option(help="Also write everything to this file.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --json.")] = False,
) -> None:
    """Compare MODELS: paired latency or throughput, size, and which kernels and precisions really ran.

    Every model has a process of its own; one runs at a time, in blocks whose order rotates.
    """
    from pydantic import TypeAdapter

    from fewbits import flow
    from fewbits.store import write_file

    if json is not None:
        must_not_exist(json, force=force)
    with stderr_progress() as progress:
        found = flow.bench(
            models,
            data,
            target=target,
            threads=threads,
            rounds=rounds,
            batch=batch,
            objective=objective,
            streams=streams,
            progress=progress,
        )
    if json is not None:
        write_file(json, TypeAdapter(flow.BenchReport).dump_json(found, indent=2) + b"\n")
        tell(f"wrote {json}")
    show(describe(found))


def describe(found: BenchReport) -> str:
    """`found` as text."""
    comparison = found.comparison
    measure = comparison.measure
    rows = []
    for name, latency in comparison.latencies.items():
        spread = median_interval([median(block) for block in latency.blocks])
        speedup = comparison.speedups.get(name)
        rows.append(
            (
                shortened(name, 40),
                readable_bytes(found.bytes[name]),
                f"{rate(latency.median, measure)} {rate_bounds(spread, measure)}",
                "baseline" if speedup is None else f"{significant(speedup.value)}x {bounds(speedup)}",
            )
        )
    lines = table(("model", "size", f"{measure}, {unit(measure)}", "speed-up"), rows, right=(1,))
    lines += ["", *paragraph(f"[low, high] are 95 % intervals. {comparison.how}."), ""]
    if found.memory is not None:
        lines += [*_memory(found.memory), ""]
    lines.append("Kernels that ran")
    kernels = [
        (shortened(name, 40), f"{count} x", kernel, precision)
        for name, nodes in found.executed.items()
        for (kernel, precision), count in Counter((node.kernel, node.precision) for node in nodes).most_common()
    ]
    lines += table(("model", "nodes", "kernel", "ran in"), kernels, right=(1,))
    machine = found.machine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    lines += ["", *paragraph(f"{machine.cpu}, {machine.cores} cores, {machine.system}; {versions}")]
    return "\n".join(lines) + "\n"


def _memory(memory: MemoryComparison) -> list[str]:
    rows = [
        (shortened(name, 40), peak(memory, name), saving(memory, name) if name in memory.savings else "baseline")
        for name in memory.peaks
    ]
    return [*table(("model", "peak memory, MiB", "saved"), rows), "", *paragraph(f"Memory: {memory.how}.")]
