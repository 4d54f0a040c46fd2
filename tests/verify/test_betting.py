"""The test by betting: exact cases, and how often it errs when it looks after every sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.verify.betting import exceeding

values = st.lists(st.floats(-1, 1), min_size=1, max_size=40).map(np.array)


@given(values, st.floats(-0.9, 0.9), st.floats(0.0, 0.5))
def test_a_higher_mean_is_harder_to_exceed(given_values: np.ndarray, mean: float, more: float) -> None:
    assert exceeding(given_values, mean, -1.0) <= exceeding(given_values, mean + more, -1.0) + 1e-12


@given(values, st.floats(-0.9, 0.9))
def test_the_order_does_not_matter(given_values: np.ndarray, mean: float) -> None:
    assert exceeding(given_values, mean, -1.0) == pytest.approx(exceeding(given_values[::-1], mean, -1.0))


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=6), st.floats(0.05, 0.95))
def test_the_capital_is_fair(outcome: list[float], share: float) -> None:
    """Over all outcomes of coins with the hypothesis' own mean, it is 1 on average: by enumeration."""
    total = 0.0
    for bits in np.ndindex(*(2,) * len(outcome)):
        coins = np.array(bits, dtype=np.float64)
        chance = float(np.prod(np.where(coins == 1, share, 1 - share)))
        total += chance / exceeding(coins, share, 0.0)
    # 1 / p-value is the capital, but never below 1.
    idle = sum(
        float(np.prod(np.where(np.array(bits) == 1, share, 1 - share)))
        for bits in np.ndindex(*(2,) * len(outcome))
        if exceeding(np.array(bits, dtype=np.float64), share, 0.0) == 1.0
    )
    assert total - idle <= 1 + 1e-9


@pytest.mark.parametrize("mean", [0.01, 0.3])
def test_looking_after_every_sample_it_errs_no_more_often_than_promised(mean: float) -> None:
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        draws = random.beta(0.2, 0.2 * (1 - mean) / mean, 200)
        wrong += any(exceeding(draws[: n + 1], mean, 0.0) <= 0.05 for n in range(0, 200, 4))
    assert wrong / 400 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


def test_a_clear_excess_is_seen_at_once() -> None:
    assert exceeding(np.full(10, 0.05), 0.01, 0.0) < 1e-4
    assert exceeding(np.full(10, 0.05), 0.06, 0.0) == 1.0


def test_a_price_of_nothing() -> None:
    assert exceeding(np.array([0.0, 0.1]), 0.0, 0.0) == 0.0
    assert exceeding(np.zeros(5), 0.0, 0.0) == 1.0


def test_values_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="below -1"):
        exceeding(np.array([-1.5]), 0.0, -1.0)
    with pytest.raises(ValueError, match="at least one"):
        exceeding(np.array([]), 0.0, -1.0)
