"""Number formats on a GPU: that every cast gives numpy's bits, then how fast it is against the memory.

The laws are those of ``tests/formats/kernels/device_laws.py``, crossed. Speed is bytes read and written over time by
CUDA events, the L2 cache overwritten before every call, median of many calls; beside it the fastest copy of as many
float32 elements, and the memory's bandwidth by the data sheet (H200: 4.8 TB/s, H100: 3.35 TB/s).

    python benchmarks/formats_gpu.py                     # a GPU: laws, then 2**28 elements; stores the result
    python benchmarks/formats_gpu.py --dry               # stores nothing
    python benchmarks/formats_gpu.py --interpret --small # no GPU: Triton's interpreter, tiny sizes, stores nothing
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from fewbits.targets.probe import this_machine
from results import FOLDER, Taken, write

if TYPE_CHECKING:
    import torch

RESULT = FOLDER / "formats_gpu.json"
PACKAGES = ("fewbits", "numpy", "torch", "triton")
DATA_SHEET = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12}  # bytes per second
L2_FLUSH = 1 << 30  # bytes: also long enough for the next call to be queued meanwhile
ROWS = 1 << 14
CALLS = 50


@dataclass(frozen=True, slots=True)
class Case:
    """One cast: format, type in, and ``values`` or ``codes`` out. `reads`: passes over the input that it needs."""

    format: str
    dtype: str
    out: str = "values"
    rounding: str = "nearest_even"
    reads: int = 1


CASES = (
    Case("fp8_e4m3", "float32"),
    Case("fp8_e5m2", "float32"),
    Case("bf16", "float32"),
    Case("int8r/channel", "float32"),
    Case("mxfp8_e4m3", "float32"),
    Case("nvfp4", "float32", reads=2),
    Case("bfp8/tile24x24", "float32"),
    Case("fp8_e4m3", "float32", rounding="stochastic"),
    Case("bf16", "float32", rounding="stochastic"),
    Case("fp8_e4m3", "bfloat16"),
    Case("int8r/channel", "bfloat16"),
    Case("mxfp8_e4m3", "bfloat16"),
    Case("fp8_e5m2", "bfloat16", rounding="stochastic"),
    Case("fp8_e4m3", "bfloat16", "codes"),
    Case("mxfp8_e4m3-rceil", "bfloat16", "codes"),
    Case("mxfp8_e5m2", "bfloat16", "codes"),
    Case("fp8_e4m3/token", "bfloat16", "codes"),
    Case("fp8_e4m3/g128", "bfloat16", "codes"),
    Case("fp8_e4m3/tile128x128", "bfloat16", "codes"),
    Case("fp8_e4m3/tensor", "bfloat16", "codes", reads=2),
    Case("nvfp4", "bfloat16", "codes", reads=2),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """One case: `seconds` of every call; `bytes` read and written, scales included; `extra_bytes` allocated beside
    the result at the peak."""

    case: Case
    elements: int
    bytes: int
    seconds: tuple[float, ...]
    extra_bytes: int

    @property
    def bytes_per_second(self) -> float:
        """Of the median call."""
        return self.bytes / median(self.seconds)


@dataclass(frozen=True, slots=True)
class Stored:
    """The result file: `failures` of the laws (none, it is hoped), and the speeds."""

    gpu: str
    taken: Taken
    cases: int
    failures: tuple[str, ...]
    copy_bytes_per_second: float
    rows: tuple[Speed, ...]


def main() -> None:
    """Check, measure, print, and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interpret", action="store_true", help="by Triton's interpreter on the CPU")
    parser.add_argument("--small", action="store_true", help="tiny sizes, every law once")
    parser.add_argument("--dry", action="store_true", help="store nothing")
    parser.add_argument("--skip-laws", action="store_true", help="speed only; stores nothing")
    options = parser.parse_args()
    if options.interpret:
        # Triton looks at it when it is imported.
        os.environ["TRITON_INTERPRET"] = "1"
        warnings.simplefilter("ignore")
    import torch

    if not options.interpret and not torch.cuda.is_available():
        sys.exit("there is no CUDA device: run with --interpret --small to try the script")
    device = "cpu" if options.interpret else "cuda"
    name = "Triton's interpreter" if options.interpret else torch.cuda.get_device_name()
    count, failures = (0, ()) if options.skip_laws else laws(device, options.small)
    elements = 1 << 14 if options.small else 1 << 28
    copy = copy_speed(device, elements)
    print(f"{name}: copies {copy / 1e12:.3f} TB/s{'; the speed of the interpreter says nothing' * options.interpret}")
    rows = tuple(speeds(device, elements, copy))
    if not (options.interpret or options.small or options.dry or options.skip_laws):
        stored = Stored(name, Taken.now(this_machine(PACKAGES)), count, failures, copy, rows)
        write(TypeAdapter(Stored).dump_json(stored, indent=1), RESULT)
        print(f"written to {RESULT}")
    if failures:
        sys.exit(1)


def laws(device: str, small: bool) -> tuple[int, tuple[str, ...]]:
    """How many casts were compared with numpy, and what differs."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from formats.kernels import device_laws

    size = 600 if small else 1 << 20
    count = sum(1 for _ in device_laws.cases(size, thorough=not small))
    parts = 1 if device == "cpu" else min(16, os.cpu_count() or 1)
    # CUDA does not survive a fork.
    with ProcessPoolExecutor(parts, mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(device_laws.failures, device, size, not small, part, parts) for part in range(parts)]
        messages = tuple(message for task in tasks for group in task.result().values() for message in group)
    for message in messages:
        print("FAILED", message)
    print(f"{count} casts compared with numpy bit for bit, {len(messages)} differences")
    return count, messages


def copy_speed(device: str, elements: int) -> float:
    """Bytes per second of copying float32, read and written: the fastest call."""
    import torch

    x, out = torch.randn(elements, device=device), torch.empty(elements, device=device)
    return 2 * x.nbytes / min(timed(lambda: out.copy_(x), device))


def speeds(device: str, elements: int, copy: float) -> Iterator[Speed]:
    """Every case in turn, on numbers of a normal distribution."""
    import torch

    for case in CASES:
        torch.manual_seed(0)
        x = torch.randn(min(ROWS, elements // 64), elements // min(ROWS, elements // 64), device=device)
        row = speed(case, x.to(getattr(torch, case.dtype)), device)
        yield row
        rate, elements_rate = row.bytes_per_second, row.elements / median(row.seconds)
        print(
            f"{case.format:22} {case.dtype:>8} -> {case.out:6} {case.rounding:12} {elements_rate / 1e9:8.1f} G/s "
            f"{rate / 1e12:6.3f} TB/s  {rate / copy:6.1%} of copying{of_sheet(rate)}  "
            f"{row.extra_bytes / 2**20:.1f} MiB extra",
            flush=True,
        )


def of_sheet(rate: float) -> str:
    """`rate` as a share of what the GPU's data sheet says, if it is one whose data sheet was read."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return f"  {rate / DATA_SHEET[name]:6.1%} of the data sheet" if name in DATA_SHEET else ""


def speed(case: Case, x: torch.Tensor, device: str) -> Speed:
    """One case on `x`."""
    import torch

    from fewbits.formats.kernels import triton_tensors
    from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
    from fewbits.formats.text import parse

    format, key = parse(case.format), NoiseKey(1) if case.rounding == "stochastic" else None
    way = (Rounding(case.rounding), Overflow.SATURATE, key)
    if case.out == "codes":
        codes, scales, _ = triton_tensors.quantize(x, format, None, *way)
        written = codes.nbytes + scales.scale.nbytes
        del codes, scales

        def call() -> object:
            return triton_tensors.quantize(x, format, None, *way)
    else:
        out, written = torch.empty_like(x), x.nbytes

        def call() -> object:
            return triton_tensors.fake_quantize(x, format, None, *way, out)

    seconds = timed(call, device)
    extra = 0
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before - (written if case.out == "codes" else 0)
    return Speed(case, x.numel(), case.reads * x.nbytes + written, seconds, extra)


def timed(call: Callable[[], object], device: str) -> tuple[float, ...]:
    """Seconds of every call, after calls that compile and warm up."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start,)
    import torch

    flush = torch.empty(L2_FLUSH, dtype=torch.int8, device=device)
    for _ in range(5):
        call()
    seconds = []
    for _ in range(CALLS):
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return tuple(seconds)


if __name__ == "__main__":
    main()
