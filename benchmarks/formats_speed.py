"""How fast number formats round, against copying the array and against the peers: 2**24 float32, two threads.

Every candidate lives in a process of its own that holds its input and waits; one works at a time, in blocks that
rotate. A round is one block of every candidate; the figure is the median over the rounds of the ratio to copying,
with its interval. The copy that counts is the faster of numpy's and torch's, into the same sort of output: memory
that is there (``out``) or fresh memory, whose pages the system must first hand out.

    python benchmarks/formats_speed.py                         # all cases, about ten minutes
    python benchmarks/formats_speed.py --case fp8_e4m3 --rounds 3 --dry
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

RESULT = Path(__file__).parent / "results" / "formats_speed.json"
PACKAGES = ("fewbits", "numpy", "numba", "torch", "ml_dtypes", "gfloat", "qtorch")
ELEMENTS = 1 << 24
ROWS = 4096
THREADS = 2
CALLS = 4  # of a block, the first of which is dropped
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One format. `ml`, `gfloat`, `torch_type`, `qtorch` name what the peers call it, empty where they lack it."""

    format: str
    ml: str = ""
    gfloat: str = ""
    torch_type: str = ""
    qtorch: tuple[int, int] | None = None


CASES = {
    case.format: case
    for case in (
        Case("fp8_e4m3", "float8_e4m3fn", "format_info_ocp_e4m3", "float8_e4m3fn", (4, 3)),
        Case("fp8_e5m2", "float8_e5m2", "format_info_ocp_e5m2", "float8_e5m2", (5, 2)),
        Case("bf16", "bfloat16", "format_info_bfloat16", "bfloat16", (8, 7)),
        Case("int8r/channel"),
        Case("mxfp8_e4m3"),
        Case("bfp8/tile24x24"),
    )
}


@dataclass(frozen=True)
class Candidate:
    """One way to do one case. `elements` is fewer where a peer needs seconds for all."""

    name: str
    tool: str
    fresh: bool
    rounding: str = "nearest_even"
    elements: int = ELEMENTS


@dataclass(frozen=True)
class Row:
    """One candidate's figures: seconds of every call of every round, and its speed relative to copying."""

    case: str
    candidate: str
    tool: str
    rounding: str
    fresh: bool
    elements: int
    seconds: tuple[tuple[float, ...], ...]
    elements_per_second: float
    of_copy: float
    of_copy_low: float
    of_copy_high: float
    note: str = ""


def candidates(case: Case) -> list[Candidate]:
    """The copies, ours, and every peer that is installed and knows the format."""
    found = [
        Candidate("copy, numpy", "copy-numpy", fresh=True),
        Candidate("copy, torch", "copy-torch", fresh=True),
        Candidate("copy, numpy, out", "copy-numpy", fresh=False),
        Candidate("copy, torch, out", "copy-torch", fresh=False),
    ]
    for rounding in ("nearest_even", "stochastic"):
        found.append(Candidate(f"fewbits, {rounding}", "fewbits", fresh=True, rounding=rounding))
        found.append(Candidate(f"fewbits, {rounding}, out", "fewbits", fresh=False, rounding=rounding))
    if case.ml:
        found.append(Candidate("ml_dtypes", "ml_dtypes", fresh=True))
    if case.gfloat and find_spec("gfloat"):
        found.append(Candidate("gfloat", "gfloat", fresh=True, elements=1 << 20))
    if case.torch_type:
        found.append(Candidate("torch .to", "torch-cast", fresh=True))
    if case.format == "int8r/channel":
        found.append(Candidate("torch.fake_quantize", "torch-fake", fresh=True))
    if find_spec("qtorch") and (case.qtorch or case.format.startswith("bfp")):
        found.append(Candidate("qtorch", "qtorch", fresh=True))
        found.append(Candidate("qtorch, stochastic", "qtorch", fresh=True, rounding="stochastic"))
    return found


def work(case: Case, candidate: Candidate) -> Call:
    """The call that is timed, on inputs that are ready."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal(candidate.elements, dtype=np.float32).reshape(-1, ROWS)
    out = None if candidate.fresh else np.zeros_like(x)
    if candidate.tool == "fewbits":
        return _fewbits(case, candidate, x, out)
    if candidate.tool == "copy-numpy":
        return x.copy if out is None else (lambda: np.copyto(out, x))
    if candidate.tool == "ml_dtypes":
        import ml_dtypes

        kind = np.dtype(getattr(ml_dtypes, case.ml))
        return lambda: x.astype(kind).astype(np.float32)
    if candidate.tool == "gfloat":
        import gfloat
        from gfloat import formats

        info = getattr(formats, case.gfloat)
        wide = x.astype(np.float64)
        return lambda: gfloat.round_ndarray(info, wide, sat=True)
    return _with_torch(case, candidate, x, out)


def _fewbits(case: Case, candidate: Candidate, x: Any, out: Any) -> Call:
    from fewbits.formats.quantize import fake_quantize
    from fewbits.formats.rounding import NoiseKey

    key = NoiseKey(0) if candidate.rounding == "stochastic" else None
    return lambda: fake_quantize(x, case.format, rounding=candidate.rounding, key=key, out=out)


def _with_torch(case: Case, candidate: Candidate, x: Any, out: Any) -> Call:
    import torch

    torch.set_num_threads(THREADS)
    tensor = torch.from_numpy(x)
    if candidate.tool == "copy-torch":
        if out is None:
            return tensor.clone
        target = torch.from_numpy(out)
        return lambda: target.copy_(tensor)
    if candidate.tool == "torch-cast":
        kind = getattr(torch, case.torch_type)
        return lambda: tensor.to(kind).to(torch.float32)
    if candidate.tool == "torch-fake":
        zeros = torch.zeros(tensor.shape[0], dtype=torch.int32)

        def fake() -> object:
            scale = tensor.abs().amax(dim=1) / 127
            return torch.fake_quantize_per_channel_affine(tensor, scale, zeros, 0, -127, 127)

        return fake
    from qtorch.quant import block_quantize, float_quantize

    rounding = "stochastic" if candidate.rounding == "stochastic" else "nearest"
    if case.qtorch is None:
        # It has no tiles: one exponent for each row.
        return lambda: block_quantize(tensor, wl=8, dim=0, rounding=rounding)
    exponent, mantissa = case.qtorch
    return lambda: float_quantize(tensor, exp=exponent, man=mantissa, rounding=rounding)


def serve(case: Case, candidate: Candidate) -> None:
    """A worker: one block of calls for every line that comes in."""
    call = work(case, candidate)
    call()
    print("ready", flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(CALLS):
            start = time.perf_counter()
            kept = call()
            seconds.append(time.perf_counter() - start)
            del kept
        print(json.dumps(seconds[1:]), flush=True)


class Worker:
    """A candidate's process."""

    def __init__(self, case: Case, candidate: Candidate) -> None:
        self.candidate = candidate
        command = [sys.executable, __file__, "--serve", json.dumps([case.format, asdict(candidate)])]
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "FEWBITS_THREADS": str(THREADS)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.candidate.name} died")
        return line.strip()

    def block(self) -> tuple[float, ...]:
        """Seconds of one block of calls."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return tuple(json.loads(self._answer()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def measure(case: Case, rounds: int) -> list[Row]:
    """All candidates of `case`, side by side."""
    from fewbits.verify.paired import ratio_interval

    workers = [Worker(case, candidate) for candidate in candidates(case)]
    blocks: dict[str, list[tuple[float, ...]]] = {worker.candidate.name: [] for worker in workers}
    for turn in range(rounds):
        shift = turn % len(workers)
        for worker in workers[shift:] + workers[:shift]:
            blocks[worker.candidate.name].append(worker.block())
    for worker in workers:
        worker.close()
    per_element = {
        worker.candidate.name: [median(block) / worker.candidate.elements for block in blocks[worker.candidate.name]]
        for worker in workers
    }
    rows = []
    for worker in workers:
        candidate = worker.candidate
        end = "" if candidate.fresh else ", out"
        copies = (per_element[f"copy, numpy{end}"], per_element[f"copy, torch{end}"])
        copy = min(copies, key=median)
        ratio = ratio_interval(copy, per_element[candidate.name])
        rows.append(
            Row(
                case.format,
                candidate.name,
                candidate.tool,
                candidate.rounding,
                candidate.fresh,
                candidate.elements,
                tuple(blocks[candidate.name]),
                1 / median(per_element[candidate.name]),
                ratio.value,
                ratio.low,
                ratio.high,
            )
        )
        print(
            f"{case.format:16} {candidate.name:32} {rows[-1].elements_per_second / 1e6:9.1f} M/s   "
            f"{ratio.value:6.3f} x copy [{ratio.low:.3f}, {ratio.high:.3f}]",
            flush=True,
        )
    return rows


def _versions() -> Mapping[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure, print, and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these formats")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--dry", action="store_true", help="store nothing")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        format, fields = json.loads(options.serve)
        serve(CASES[format], Candidate(**fields))
        return
    from fewbits.targets.probe import this_machine

    rows = [row for name in options.case or CASES for row in measure(CASES[name], options.rounds)]
    if not options.dry:
        stored = {
            "command": " ".join(["python", "benchmarks/formats_speed.py", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": asdict(this_machine()) | {"versions": dict(_versions())},
            "threads": THREADS,
            "rows": [asdict(row) for row in rows],
        }
        RESULT.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
