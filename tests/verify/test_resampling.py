"""The bootstrap of paired samples: how often it holds the truth for F1, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fewbits.budget import Budget
from fewbits.errors import MetricError
from fewbits.evaluation import Direction
from fewbits.metric_rows import Rows, f1_value, mean
from fewbits.verify.paired import difference_interval
from fewbits.verify.resampling import resampled_loss

HIGHER, LOWER = Direction.HIGHER, Direction.LOWER
ABSOLUTE = Budget(0.01, relative=False)


def classified(random: np.random.Generator, samples: int, flips: float) -> tuple[Rows, Rows]:
    """F1 rows of a model that errs in a tenth of the samples, and of one that changes `flips` of its answers."""
    true = random.random(samples) < 0.3
    before = true ^ (random.random(samples) < 0.1)
    after = before ^ (random.random(samples) < flips)
    two = np.full(samples, 2.0)
    return np.stack([before, true, two], axis=1).astype(float), np.stack([after, true, two], axis=1).astype(float)


def true_loss(flips: float) -> float:
    """From the shares of the four outcomes."""
    error = 0.1 * (1 - flips) + 0.9 * flips

    def f1(wrong: float) -> float:
        hits, predicted = 0.3 * (1 - wrong), 0.3 * (1 - wrong) + 0.7 * wrong
        return 2 * hits / (predicted + 0.3)

    return f1(0.1) - f1(error)


@pytest.mark.parametrize(("samples", "flips", "least"), [(300, 0.05, 0.92), (100, 0.05, 0.87)])
def test_how_often_it_holds_the_true_loss_of_f1(samples: int, flips: float, least: float) -> None:
    """95 % but for the noise of 200 repetitions; of 100 samples with five changes less, as documented."""
    random = np.random.default_rng(1)
    truth, held = true_loss(flips), 0
    for _ in range(200):
        interval = resampled_loss(*classified(random, samples, flips), f1_value, ABSOLUTE, HIGHER, resamples=300)
        held += interval.low <= truth <= interval.high
    assert held / 200 >= least


def test_it_is_scipys_for_a_metric_that_both_can() -> None:
    before, after = classified(np.random.default_rng(2), 400, 0.1)

    def f1_loss(first: np.ndarray, second: np.ndarray, true: np.ndarray) -> float:
        def f1(predicted: np.ndarray) -> float:
            return float(2 * (predicted * true).sum() / (predicted.sum() + true.sum()))

        return f1(first) - f1(second)

    outside = stats.bootstrap(
        (before[:, 0], after[:, 0], before[:, 1]),
        f1_loss,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    found = resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER, resamples=2000)
    assert (found.low, found.high) == pytest.approx((outside.low, outside.high), abs=0.004)


def test_for_a_mean_it_agrees_with_the_paired_interval() -> None:
    random = np.random.default_rng(3)
    before = random.standard_normal(300)
    after = before + random.normal(-0.1, 0.3, 300)
    plain = difference_interval(before.tolist(), after.tolist())
    found = resampled_loss(before, after, mean, ABSOLUTE, HIGHER, resamples=2000)
    assert found.value == pytest.approx(plain.value)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.005)


def test_pairs_stay_together() -> None:
    """A loss that is the same everywhere has no spread, however much the scores themselves have."""
    before = np.random.default_rng(4).standard_normal(100)
    found = resampled_loss(before, before - 0.5, mean, ABSOLUTE, HIGHER)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_rows_of_one_sample_are_drawn_together() -> None:
    """Each sample repeated 25 times says no more than once; taken for independent it would seem to."""
    before, after = classified(np.random.default_rng(5), 200, 0.1)
    once = resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER)
    many_before, many_after = np.repeat(before, 25, axis=0), np.repeat(after, 25, axis=0)
    sample = np.repeat(np.arange(200), 25)
    together = resampled_loss(many_before, many_after, f1_value, ABSOLUTE, HIGHER, sample=sample)
    apart = resampled_loss(many_before, many_after, f1_value, ABSOLUTE, HIGHER, resamples=200)
    assert together == once
    assert apart.high - apart.low < 0.4 * (once.high - once.low)


def test_unit_and_direction_are_the_budgets() -> None:
    before, after = classified(np.random.default_rng(6), 200, 0.1)
    absolute = resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER)
    relative = resampled_loss(before, after, f1_value, Budget.parse("1%"), HIGHER)
    turned = resampled_loss(before, after, f1_value, ABSOLUTE, LOWER)
    score = f1_value(before)
    assert absolute.value == pytest.approx(score - f1_value(after))
    assert (relative.low, relative.high) == pytest.approx((absolute.low / score, absolute.high / score))
    assert (turned.low, turned.high) == pytest.approx((-absolute.high, -absolute.low))
    assert absolute.low < absolute.value < absolute.high


def test_more_confidence_is_wider_and_the_seed_fixed() -> None:
    before, after = classified(np.random.default_rng(7), 200, 0.1)
    usual = resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER)
    wider = resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER, confidence=0.99)
    assert wider.low < usual.low < usual.high < wider.high
    assert wider.confidence == 0.99
    assert resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER) == usual


def test_what_cannot_be_drawn() -> None:
    before, after = classified(np.random.default_rng(8), 20, 0.1)
    with pytest.raises(ValueError, match="same rows"):
        resampled_loss(before, after[:10], f1_value, ABSOLUTE, HIGHER)
    with pytest.raises(ValueError, match="same rows"):
        resampled_loss(before[:0], after[:0], f1_value, ABSOLUTE, HIGHER)
    with pytest.raises(ValueError, match="at least one row"):
        resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER, sample=np.arange(20) + 1)
    with pytest.raises(ValueError, match="per row"):
        resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER, sample=np.arange(19))
    with pytest.raises(ValueError, match="between 0 and 1"):
        resampled_loss(before, after, f1_value, ABSOLUTE, HIGHER, confidence=0.0)
    with pytest.raises(MetricError, match="undefined"):
        resampled_loss(np.zeros(5), np.ones(5), mean, Budget.parse("1%"), HIGHER)
