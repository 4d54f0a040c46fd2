"""Intervals: against scipy and published figures, and by how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.measurement import Interval
from fewbits.verify.paired import difference_interval, mean_interval, median_difference, ratio_interval

floats = st.floats(-100, 100)


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@given(st.lists(floats | st.sampled_from([0.0, 1.0]), min_size=1, max_size=30))
def test_the_value_is_the_mean_and_lies_within(scores: list[float]) -> None:
    interval = mean_interval(scores)
    assert interval.value == pytest.approx(np.mean(scores))
    assert interval.low <= interval.value <= interval.high
    assert mean_interval(scores) == interval


@given(st.lists(st.tuples(floats, floats) | st.tuples(*[st.sampled_from([0.0, 1.0])] * 2), min_size=1, max_size=30))
def test_the_difference_turns_its_sign_with_the_order(pairs: list[tuple[float, float]]) -> None:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    forth, back = difference_interval(first, second), difference_interval(second, first)
    assert forth.value == -back.value == pytest.approx(np.mean(first) - np.mean(second), abs=1e-9)
    assert forth.low <= forth.value <= forth.high
    width = 1e-9 + 0.35 * (forth.high - forth.low)
    assert forth.low == pytest.approx(-back.high, abs=width)


def test_wilson_by_hand() -> None:
    # 8 of 10 at 95 %, Wilson 1927; the figures of Brown, Cai & DasGupta 2001, equation 4.
    interval = mean_interval([1.0] * 8 + [0.0] * 2)
    assert (interval.low, interval.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert mean_interval([1.0] * 10).low == pytest.approx(0.7225, abs=1e-4)


def test_bonett_price_by_hand() -> None:
    # n = 98, 9 pairs better and 3 worse: p12 = 10/100, p21 = 4/100, half width 1.959964 sqrt((0.14 - 0.06^2)/100).
    first, second = [1.0] * 9 + [0.0] * 3 + [1.0] * 86, [0.0] * 9 + [1.0] * 3 + [1.0] * 86
    interval = difference_interval(first, second)
    half = 1.959964 * np.sqrt((0.14 - 0.0036) / 100)
    assert interval.value == pytest.approx(6 / 98)
    assert (interval.low, interval.high) == (pytest.approx(0.06 - half), pytest.approx(0.06 + half))


def test_equal_answers_on_few_samples_prove_little() -> None:
    few, many = (difference_interval([1.0] * n, [1.0] * n) for n in (10, 1000))
    assert few.value == many.value == 0
    assert few.high > 0.1
    assert 0 < many.high < 0.01


def test_equal_differences_have_no_width_and_no_warning() -> None:
    assert difference_interval([0.5, 0.75], [0.25, 0.5]) == Interval(0.25, 0.25, 0.25)
    assert mean_interval([0.5] * 9) == Interval(0.5, 0.5, 0.5)
    assert mean_interval([0.5]) == Interval(0.5, 0.5, 0.5)


def test_infinite_scores_give_an_infinite_value() -> None:
    assert difference_interval([np.inf, 0.5], [0.25, 0.5]).value == np.inf


def test_bad_lengths() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        difference_interval([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_pairing_removes_what_both_share() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(size=200)
    first, second = hard + random.normal(scale=0.01, size=200), hard + random.normal(scale=0.01, size=200)
    paired = difference_interval(first.tolist(), second.tolist())
    alone = mean_interval(first.tolist())
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def binary_coverage(samples: int) -> float:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        case = random.choice(4, p=[0.80, 0.06, 0.02, 0.12], size=samples)
        first, second = np.isin(case, (0, 1)), np.isin(case, (0, 2))
        held += holds(difference_interval(first.tolist(), second.tolist()), 0.04)
    return held / 1000


@pytest.mark.parametrize("samples", [100, 300])
def test_binary_differences_hold_the_truth_at_the_stated_rate(samples: int) -> None:
    assert 0.93 <= binary_coverage(samples) <= 0.985


def test_binary_differences_of_few_samples_err_on_the_wide_side() -> None:
    # With two or three expected differences the adjusted interval is conservative by construction.
    assert binary_coverage(30) >= 0.95


def test_real_differences_hold_the_truth_at_the_stated_rate() -> None:
    random = np.random.default_rng(2)
    held = 0
    for _ in range(300):
        second = random.normal(size=80)
        first = second + 0.1 + random.exponential(0.2, size=80) - 0.2
        held += holds(difference_interval(first.tolist(), second.tolist()), 0.1)
    assert 0.90 <= held / 300 <= 0.98


class TestRatio:
    def test_the_median_of_the_ratios_of_each_round(self) -> None:
        interval = ratio_interval([2.0, 20.0, 3.0], [1.0, 10.0, 1.0])
        assert (interval.value, interval.low, interval.high) == (2, 2, 3)

    def test_order_statistics_by_the_binomial_table(self) -> None:
        # n = 10: P(2 <= Bin(10, 1/2) <= 8) = 0.9785, so the second and the ninth ratio bound the median.
        ratios = [float(n) for n in range(1, 11)]
        interval = ratio_interval(ratios, [1.0] * 10)
        assert (interval.value, interval.low, interval.high, interval.confidence) == (5.5, 2, 9, 0.95)

    def test_too_few_rounds_say_how_little_they_are_worth(self) -> None:
        assert ratio_interval([2.0, 3.0], [1.0, 1.0]) == Interval(2.5, 2, 3, 0.5)
        assert ratio_interval([2.0] * 5, [1.0] * 5).confidence == 0.9375
        assert ratio_interval([2.0] * 6, [1.0] * 6).confidence == 0.95

    def test_drift_that_both_see_cancels(self) -> None:
        load = np.linspace(1, 5, 21)
        interval = ratio_interval((2 * load).tolist(), load.tolist())
        assert interval == Interval(2, 2, 2)

    def test_noise_around_one_is_not_called_a_gain(self) -> None:
        random = np.random.default_rng(3)
        sure = sum(
            ratio_interval(random.lognormal(0, 0.1, 15).tolist(), random.lognormal(0, 0.1, 15).tolist()).low > 1
            for _ in range(200)
        )
        assert sure / 200 <= 0.05

    @pytest.mark.parametrize("rounds", [7, 15])
    def test_holds_the_truth_at_least_at_the_stated_rate(self, rounds: int) -> None:
        random = np.random.default_rng(4)
        held = 0
        for _ in range(400):
            slow, fast = 1.5 * random.lognormal(0, 0.1, rounds), random.lognormal(0, 0.1, rounds)
            held += holds(ratio_interval(slow.tolist(), fast.tolist()), 1.5)
        assert held / 400 >= 0.94

    @given(st.lists(st.tuples(st.floats(1e-4, 10), st.floats(1e-4, 10)), min_size=1, max_size=15))
    def test_the_value_lies_within(self, rounds: list[tuple[float, float]]) -> None:
        interval = ratio_interval([pair[0] for pair in rounds], [pair[1] for pair in rounds])
        assert interval.low <= interval.value <= interval.high

    def test_one_round_is_never_a_sure_gain(self) -> None:
        assert ratio_interval([2.0], [1.0]) == Interval(2, 1, 2, 0)
        assert ratio_interval([1.0], [2.0]) == Interval(0.5, 0.5, 1, 0)

    def test_rounds_that_cannot_be(self) -> None:
        with pytest.raises(ValueError, match="same rounds"):
            ratio_interval([1.0], [1.0, 2.0])
        with pytest.raises(ValueError, match="above 0"):
            ratio_interval([1.0], [0.0])
        with pytest.raises(ValueError, match="at least one"):
            ratio_interval([], [])


def test_a_bootstrap_of_few_rounds_would_promise_too_much() -> None:
    """Why the interval lies between order statistics: a bootstrap misses the median too often."""
    random = np.random.default_rng(5)
    ratios = np.exp(0.1 * random.standard_normal((1000, 8)))  # the true median is 1
    resampled = np.median(ratios[:, random.integers(0, 8, (400, 8))], axis=2)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    bootstrap = float(np.mean((low <= 1) & (high >= 1)))
    exact = [ratio_interval([1.0 * one for one in row], [1.0] * 8) for row in ratios[:300]]
    ordered = float(np.mean([interval.low <= 1 <= interval.high for interval in exact]))
    assert bootstrap < 0.94
    assert ordered >= 0.97


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=20), floats)
def test_the_median_difference_moves_with_what_is_added_and_is_the_ratio_s_of_exponents(
    pairs: list[tuple[float, float]], shift: float
) -> None:
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = median_difference(before, after)
    assert found.value == pytest.approx(np.median(np.subtract(before, after)))
    moved = median_difference([one + shift for one in before], after)
    assert moved.value == pytest.approx(found.value + shift, abs=1e-9)
    if len(pairs) > 1:
        assert (moved.low, moved.high) == pytest.approx((found.low + shift, found.high + shift), abs=1e-9)
    scaled = ratio_interval(np.exp(np.divide(before, 100)).tolist(), np.exp(np.divide(after, 100)).tolist())
    assert 100 * np.log([scaled.low, scaled.high]) == pytest.approx([found.low, found.high], abs=1e-6)


def test_one_difference_is_no_saving_for_sure() -> None:
    assert median_difference([5.0], [3.0]).low == 0
    assert median_difference([3.0], [5.0]).high == 0
    assert median_difference([5.0] * 6, [3.0, 3.1, 3.2, 3.0, 3.0, 4.9]).low > 0
    with pytest.raises(ValueError, match="same rounds"):
        median_difference([1.0], [1.0, 2.0])
