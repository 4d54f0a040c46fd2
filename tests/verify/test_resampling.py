"""The bootstrap of paired samples: how often it holds the truth for F1, and against scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from f1_scores import answers, classified, f1, true_loss, true_score
from fewbits.evaluation import Direction, Scores
from fewbits.verify.resampling import first_samples, resampled_loss, resampled_score

HIGHER, LOWER = Direction.HIGHER, Direction.LOWER


@pytest.mark.parametrize(("samples", "flips", "least"), [(300, 0.05, 0.92), (100, 0.05, 0.87)])
def test_how_often_it_holds_the_true_loss_of_f1(samples: int, flips: float, least: float) -> None:
    """95 % but for the noise of 200 repetitions; of 100 samples with five changes less, as documented."""
    random = np.random.default_rng(1)
    truth, held = true_loss(flips), 0
    for _ in range(200):
        interval = resampled_loss(*classified(random, samples, flips), HIGHER, resamples=300)
        held += interval.low <= truth <= interval.high
    assert held / 200 >= least


def test_how_often_it_holds_the_true_score() -> None:
    random, held = np.random.default_rng(11), 0
    for _ in range(100):
        interval = resampled_score(classified(random, 300, 0.0)[0], resamples=200)
        held += interval.low <= true_score(0.1) <= interval.high
    assert held / 100 >= 0.89


def test_it_is_scipys() -> None:
    before, after, true = answers(np.random.default_rng(2), 400, 0.1)

    def loss(first: np.ndarray, second: np.ndarray, true: np.ndarray) -> float:
        def f1(predicted: np.ndarray) -> float:
            return float(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))

        return f1(first) - f1(second)

    outside = stats.bootstrap(
        (before, after, true),
        loss,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    found = resampled_loss(f1(before, true), f1(after, true), HIGHER, resamples=2000)
    assert (found.low, found.high) == pytest.approx((outside.low, outside.high), abs=0.004)


def test_pairs_stay_together() -> None:
    """The same answers have no loss in any resample, however much the scores themselves vary."""
    same, _ = classified(np.random.default_rng(4), 100, 0.1)
    found = resampled_loss(same, same, HIGHER)
    assert (found.low, found.value, found.high) == (0, 0, 0)
    alone = resampled_score(same)
    assert alone.high - alone.low > 0.1


def test_rows_of_one_sample_are_drawn_together() -> None:
    """Each answer given at 25 positions of its sample says no more than once; of 25 samples it would seem to."""
    before, after, true = answers(np.random.default_rng(5), 200, 0.1)
    once = resampled_loss(f1(before, true), f1(after, true), HIGHER)
    repeated = [np.repeat(one, 25) for one in (before, after, true)]
    sample = np.repeat(np.arange(200), 25)
    together = resampled_loss(f1(repeated[0], repeated[2], sample), f1(repeated[1], repeated[2], sample), HIGHER)
    apart = resampled_loss(f1(repeated[0], repeated[2]), f1(repeated[1], repeated[2]), HIGHER, resamples=200)
    assert (together.low, together.high) == pytest.approx((once.low, once.high))
    assert apart.high - apart.low < 0.4 * (once.high - once.low)


def test_samples_without_a_label_say_nothing() -> None:
    before, after, true = answers(np.random.default_rng(9), 50, 0.1)
    every_third = 3 * np.arange(50) + 1
    plain = resampled_loss(f1(before, true), f1(after, true), HIGHER)
    assert resampled_loss(f1(before, true, every_third), f1(after, true, every_third), HIGHER) == plain


def test_unit_and_direction() -> None:
    before, after = classified(np.random.default_rng(6), 200, 0.1)
    plain = resampled_loss(before, after, HIGHER)
    scaled = resampled_loss(before, after, HIGHER, scale=before.value)
    turned = resampled_loss(before, after, LOWER)
    assert plain.value == pytest.approx(before.value - after.value)
    assert (scaled.low, scaled.high) == pytest.approx((plain.low / before.value, plain.high / before.value))
    assert (turned.low, turned.high) == pytest.approx((-plain.high, -plain.low))
    assert plain.low < plain.value < plain.high


def test_more_confidence_is_wider_and_the_seed_fixed() -> None:
    before, after = classified(np.random.default_rng(7), 200, 0.1)
    usual = resampled_loss(before, after, HIGHER)
    wider = resampled_loss(before, after, HIGHER, confidence=0.99)
    assert wider.low < usual.low < usual.high < wider.high
    assert wider.confidence == 0.99
    assert resampled_loss(before, after, HIGHER) == usual


def test_the_first_samples_have_their_own_score() -> None:
    before, _, true = answers(np.random.default_rng(10), 60, 0.0)
    whole = f1(before, true)
    assert first_samples(whole, 60) is whole
    assert first_samples(whole, 20) == f1(before[:20], true[:20])


def test_what_cannot_be_drawn() -> None:
    before, after, true = answers(np.random.default_rng(8), 20, 0.1)
    one, other = f1(before, true), f1(after, true)
    with pytest.raises(ValueError, match="same samples"):
        resampled_loss(one, f1(after[:10], true[:10]), HIGHER)
    with pytest.raises(ValueError, match="at least one"):
        resampled_loss(one, Scores(0.5, 20), HIGHER)
    with pytest.raises(ValueError, match="rows of one metric"):
        resampled_loss(one, replace(other, pooled=replace(other.pooled, metric="f1@0.5")), HIGHER)
    with pytest.raises(ValueError, match="between 0 and 1"):
        resampled_loss(one, other, HIGHER, confidence=0.0)
