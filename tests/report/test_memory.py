from __future__ import annotations

import pytest

from fewbits.measurement import Interval, MemoryComparison
from fewbits.report.memory import memory_rows

MIB = 2**20


@pytest.mark.parametrize(
    ("saved", "shown"),
    [
        ((20, 19, 21), "20.0 less [19.0, 21.0]"),
        ((-20, -21, -19), "20.0 more [19.0, 21.0]"),
        ((0.5, -1, 2), "0.5 [-1.0, 2.0]"),
    ],
)
def test_the_difference_says_which_way(saved: tuple[float, float, float], shown: str) -> None:
    value, low, high = (one * MIB for one in saved)
    peaks = {"original": (100 * MIB,) * 6, "tuned": (round(100 * MIB - value),) * 6}
    memory = MemoryComparison("original", peaks, {"tuned": Interval(value, low, high)}, "")
    ((what, before, after, change),) = memory_rows(memory)
    assert (what, before, change) == ("peak memory, MiB", "100.0 [100.0, 100.0]", shown)
    assert after.startswith(f"{100 - saved[0]:.1f}")
