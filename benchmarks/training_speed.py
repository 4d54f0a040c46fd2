"""What emulated low precision costs in training on the CPU: beside fp32, a hand-written autocast loop, and qtorch.

Every candidate lives in a process of its own; one works at a time, in blocks that rotate. A round is one block of every
candidate of a contest; the figure is the median over rounds of the paired ratio of block medians, with its interval.
qtorch (PyPI) is built on first use and lives in an environment of its own, with the same torch; without one its rows
are left out:

    python -m venv qtorch && qtorch/bin/pip install torch==2.13.0 numpy qtorch ninja setuptools
    python benchmarks/training_speed.py --qtorch-python qtorch/bin/python        # about seven minutes
    python benchmarks/training_speed.py --net cnn --rounds 3 --dry               # a look
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from fewbits.targets.probe import this_machine
from fewbits.verify.paired import ratio_interval
from training_speed_worker import NETS

RESULT = Path(__file__).parent / "results" / "training_speed.json"
WORKER = Path(__file__).parent / "training_speed_worker.py"
PACKAGES = ("fewbits", "torch", "numpy", "numba")
EMULATED = ("fp8_hybrid_current", "fp8_mellempudi", "mxfp8_rceil")
QTORCH = "qtorch "
KEPT = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}


@dataclass(frozen=True)
class Contest:
    """Ways that are measured side by side; `pairs` says which is held against which, and how many times as long it may
    take at most (0: nothing is said)."""

    name: str
    ways: tuple[str, ...]
    pairs: tuple[tuple[str, str, float], ...]
    rounds: int
    block_seconds: float
    keeps_memory: bool = False
    """Whether the C library keeps what is freed, as the allocators do that people train with: otherwise glibc gives
    pages back and takes them again in every step, some thousand more or fewer by the order in which tensors die."""


OVERHEAD = (
    ("autocast", "amp_bf16", "fp16 dynamic", "fp16 layer_adaptive"),
    (("amp_bf16", "autocast", 1.02), ("fp16 layer_adaptive", "fp16 dynamic", 1.02)),
)
CONTESTS = (
    Contest(
        "emulation",
        ("fp32", *EMULATED, QTORCH + "fp8_mellempudi", QTORCH + "fp8_hybrid_current"),
        (
            *((recipe, "fp32", 2.0) for recipe in EMULATED),
            (QTORCH + "fp8_mellempudi", "fp8_mellempudi", 0.0),
            (QTORCH + "fp8_hybrid_current", "fp8_hybrid_current", 0.0),
        ),
        rounds=9,
        block_seconds=0.5,
    ),
    Contest("overhead", *OVERHEAD, rounds=21, block_seconds=0.5),
    Contest("overhead, memory kept", *OVERHEAD, rounds=21, block_seconds=0.5, keeps_memory=True),
)


@dataclass(frozen=True)
class Row:
    """One way held against another: seconds of a step of both, and how many times as long it takes."""

    net: str
    contest: str
    way: str
    against: str
    allowed: float
    seconds: float
    against_seconds: float
    ratio: float
    low: float
    high: float
    confidence: float


class Worker:
    """The process of one way."""

    def __init__(self, python: str, net: str, way: str, threads: int, *, keeps_memory: bool) -> None:
        self.way = way
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | (KEPT if keeps_memory else {})
        self._process = subprocess.Popen(
            [python, str(WORKER), net, way, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.torch = str(json.loads(self._answer())["torch"])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.way} died")
        return line

    def block(self, seconds: float) -> list[float]:
        """Seconds of the calls of one block of at least `seconds`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return [float(taken) for taken in json.loads(self._answer())]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def measure(contest: Contest, net: str, rounds: int, threads: int, qtorch: str) -> dict[str, list[list[float]]]:
    """Way → the seconds of the calls of each of its blocks."""
    ways = [way for way in contest.ways if qtorch or not way.startswith(QTORCH)]
    pythons = [qtorch if way.startswith(QTORCH) else sys.executable for way in ways]
    workers = [
        Worker(python, net, way, threads, keeps_memory=contest.keeps_memory)
        for python, way in zip(pythons, ways, strict=True)
    ]
    if len(versions := {worker.torch for worker in workers}) > 1:
        raise SystemExit(f"all environments must have one torch, not {' and '.join(versions)}")
    blocks: dict[str, list[list[float]]] = {way: [] for way in ways}
    for turn in range(rounds):
        shift = turn % len(workers)
        for worker in workers[shift:] + workers[:shift]:
            blocks[worker.way].append(worker.block(contest.block_seconds))
    for worker in workers:
        worker.close()
    return blocks


def rows(contest: Contest, net: str, blocks: dict[str, list[list[float]]]) -> list[Row]:
    """The pairs of `contest`, as far as both were measured."""
    taken = {way: [median(block) for block in found] for way, found in blocks.items()}
    found = []
    for way, against, allowed in contest.pairs:
        if way in taken:
            ratio = ratio_interval(taken[way], taken[against])
            figures = (median(taken[way]), median(taken[against]), ratio.value, ratio.low, ratio.high, ratio.confidence)
            found.append(Row(net, contest.name, way, against, allowed, *figures))
    return found


def show(found: Sequence[Row]) -> None:
    """Print rows."""
    for row in found:
        allowed = f", at most {row.allowed:g}" if row.allowed else ""
        print(
            f"{row.net:<12} {row.way:<26} {row.seconds * 1e3:8.1f} ms   {row.ratio:6.3f} x {row.against} "
            f"[{row.low:.3f}, {row.high:.3f}]{allowed}",
            flush=True,
        )


def main() -> None:
    """Measure, print, and store."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--net", action="append", choices=list(NETS), help="only these networks")
    options.add_argument("--contest", action="append", choices=[contest.name for contest in CONTESTS])
    options.add_argument("--rounds", type=int, default=0, help="of every contest, in place of its own number")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--qtorch-python", default="", help="the Python of an environment with torch and qtorch")
    options.add_argument("--dry", action="store_true", help="store nothing")
    given = options.parse_args()
    found: list[Row] = []
    raw = []
    for net in given.net or NETS:
        for contest in CONTESTS:
            if given.contest and contest.name not in given.contest:
                continue
            blocks = measure(contest, net, given.rounds or contest.rounds, given.threads, given.qtorch_python)
            found += (these := rows(contest, net, blocks))
            show(these)
            raw.append({"net": net, "contest": contest.name, "blocks": blocks})
    if given.dry:
        return
    versions = {name: version(name) for name in PACKAGES}
    if given.qtorch_python:
        asked = "from importlib.metadata import version; print(version('qtorch'))"
        versions["qtorch"] = subprocess.check_output([given.qtorch_python, "-c", asked], text=True).strip()
    # Where the other environment lies says nothing.
    words = shlex.join(["python", "benchmarks/training_speed.py", *sys.argv[1:]])
    words = words.replace(given.qtorch_python or "\0", "qtorch/bin/python")
    measured = {one["contest"] for one in raw}
    before = (
        json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"command": {}, "rows": [], "raw": []}
    )
    # Contests that were not measured now stay as they were.
    stored = {
        "command": before["command"] | dict.fromkeys(sorted(measured), words),
        "date": time.strftime("%Y-%m-%d"),
        "machine": asdict(this_machine()) | {"versions": before.get("machine", {}).get("versions", {}) | versions},
        "threads": given.threads,
        "rows": [*(one for one in before["rows"] if one["contest"] not in measured), *map(asdict, found)],
        "raw": [*(one for one in before["raw"] if one["contest"] not in measured), *raw],
    }
    RESULT.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
