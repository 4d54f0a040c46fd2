from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fewbits.report.spread import median_interval


@pytest.mark.parametrize("count", range(1, 60))
def test_the_pair_of_order_statistics_is_the_binomial_one(count: int) -> None:
    interval = median_interval([float(value) for value in range(count)])
    trim = round(interval.low)
    assert interval.high == count - 1 - trim
    assert interval.confidence == pytest.approx(1 - 2 * binom.cdf(trim, count, 0.5), abs=1e-12)
    if trim > 0:
        assert interval.confidence >= 0.95
    assert 1 - 2 * binom.cdf(trim + 1, count, 0.5) < 0.95


def test_it_holds_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    intervals = [median_interval(list(generator.lognormal(size=12))) for _ in range(4000)]
    held = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert held == pytest.approx(intervals[0].confidence, abs=0.01)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30))
def test_the_median_lies_inside(values: list[float]) -> None:
    interval = median_interval(values)
    assert min(values) <= interval.low <= interval.value <= interval.high <= max(values)


def test_no_values() -> None:
    with pytest.raises(ValueError, match="no values"):
        median_interval([])
