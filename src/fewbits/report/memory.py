"""Peak memory as text, in MiB."""

from __future__ import annotations

from statistics import median

from fewbits.measurement import MemoryComparison
from fewbits.report.spread import median_interval


def mebibytes(size: float) -> str:
    """`size` bytes in MiB with one digit behind the point, without the unit."""
    return f"{size / 2**20:.1f}"


def peak(memory: MemoryComparison, name: str) -> str:
    """The median over the processes of `name`, and the interval of it."""
    spread = median_interval(memory.peaks[name])
    return f"{mebibytes(median(memory.peaks[name]))} [{mebibytes(spread.low)}, {mebibytes(spread.high)}]"


def saving(memory: MemoryComparison, name: str) -> str:
    """How much less `name` takes than the baseline."""
    saved = memory.savings[name]
    word = " less" if saved.low > 0 else " more" if saved.high < 0 else ""
    sign = -1 if saved.high < 0 else 1
    low, high = sorted((sign * saved.low, sign * saved.high))
    return f"{mebibytes(sign * saved.value)}{word} [{mebibytes(low)}, {mebibytes(high)}]"


def memory_rows(memory: MemoryComparison) -> list[tuple[str, str, str, str]]:
    """Rows of a summary: what is measured, of the baseline, of another, and the difference."""
    return [
        ("peak memory, MiB", peak(memory, memory.baseline), peak(memory, name), saving(memory, name))
        for name in memory.savings
    ]
