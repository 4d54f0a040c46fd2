from __future__ import annotations

import pytest

from fewbits.measurement import Interval, Measure
from fewbits.report.rates import rate, rate_bounds, unit


@pytest.mark.parametrize(
    ("measure", "shown"),
    [(Measure.LATENCY, ("ms", "4.00", "[2.00, 8.00]")), (Measure.THROUGHPUT, ("samples/s", "250", "[125, 500]"))],
)
def test_low_is_low_in_either_unit(measure: Measure, shown: tuple[str, str, str]) -> None:
    seconds = Interval(0.004, 0.002, 0.008)
    assert (unit(measure), rate(seconds.value, measure), rate_bounds(seconds, measure)) == shown


def test_no_time_has_no_rate() -> None:
    assert rate(0.0, Measure.THROUGHPUT) == "-"
    assert rate(0.0, Measure.LATENCY) == "0"
