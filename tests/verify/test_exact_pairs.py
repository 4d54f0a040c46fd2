"""The exact test for pairs of 0 and 1: against plain enumeration, and by its error over all outcomes."""

from __future__ import annotations

from functools import cache
from math import comb

import numpy as np
import pytest
from scipy import optimize, stats

from fewbits.verify.exact_pairs import exceeding, score

SLACK = 0.0005


def probability(losses: int, gains: int, samples: int, loss: float, gain: float) -> float:
    """Trinomial, from its definition."""
    ways = comb(samples, losses) * comb(samples - losses, gains)
    return float(ways * loss**losses * gain**gains * (1 - loss - gain) ** (samples - losses - gains))


def outcomes(samples: int) -> list[tuple[int, int]]:
    return [(losses, gains) for losses in range(samples + 1) for gains in range(samples + 1 - losses)]


@cache
def rejected(samples: int, margin: float, level: float) -> list[tuple[int, int]]:
    return [seen for seen in outcomes(samples) if exceeding(*seen, samples, margin, level / 20) <= level]


@pytest.mark.parametrize("margin", [-0.05, 0.0, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_error_over_all_outcomes_is_within_the_level(margin: float, level: float) -> None:
    samples = 24
    found = rejected(samples, margin, level)
    assert found
    shares = np.linspace(max(0, -margin), (1 - margin) / 2, 60).tolist()
    inside = [(gain + margin, gain) for gain in shares]
    # Also well within the hypothesis, and where the gains are the rule.
    deeper = [(max(loss - 0.05, 0.0), gain) for loss, gain in inside] + [(0.02, 0.9), (0.0, 0.999)]
    errors = [sum(probability(*seen, samples, *true) for seen in found) for true in inside + deeper]
    assert max(errors) <= level


def test_it_is_the_largest_sum_over_all_outcomes_as_extreme() -> None:
    samples, margin, seen = 25, 0.04, (6, 2)
    least = score(np.array(6), np.array(2), samples, margin) - 1e-9
    extreme = [each for each in outcomes(samples) if score(*map(np.array, each), samples, margin) >= least]
    low, high = stats.binomtest(2, samples).proportion_ci(1 - SLACK, method="exact")
    sums = [
        sum(probability(*each, samples, gain + margin, gain) for each in extreme)
        for gain in np.linspace(low, min(high, (1 - margin) / 2), 400)
    ]
    assert exceeding(*seen, samples, margin, SLACK) == pytest.approx(max(sums) + SLACK, rel=2e-3)


@pytest.mark.parametrize("margin", [0.0, 0.02, -0.03])
def test_the_statistic_has_the_variance_of_the_likeliest_hypothesis(margin: float) -> None:
    samples, losses, gains = 60, 7, 3

    def unlikely(gain: float) -> float:
        loss = gain + margin
        same = samples - losses - gains
        return -float(losses * np.log(loss) + gains * np.log(gain) + same * np.log(1 - loss - gain))

    best = optimize.minimize_scalar(
        unlikely, bounds=(max(1e-9, 1e-9 - margin), (1 - margin) / 2 - 1e-9), method="bounded"
    )
    deviation = np.sqrt(samples * (2 * best.x + margin - margin**2))
    expected = (losses - gains - samples * margin) / deviation
    assert score(np.array(losses), np.array(gains), samples, margin) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("margin", [-0.9, -0.03, 0.0, 0.01, 0.2, 0.9])
def test_more_losses_speak_louder_and_more_gains_softer(margin: float) -> None:
    """What makes the boundary the hardest case of the hypothesis (Barnard's convexity)."""
    samples = 40
    for losses, gains in outcomes(samples - 1):
        here = score(np.array(losses), np.array(gains), samples, margin)
        assert score(np.array(losses + 1), np.array(gains), samples, margin) >= here - 1e-9
        assert score(np.array(losses), np.array(gains + 1), samples, margin) <= here + 1e-9


def test_no_change_at_all_is_the_rule_of_three() -> None:
    """No loss among n: a share of m is excluded at 5 % once (1 - m)^n falls below it, at about n = 3 / m."""
    few = next(n for n in range(100, 600, 5) if exceeding(0, 0, n, -0.01, SLACK) <= 0.05)
    assert few == pytest.approx(3 / 0.01, rel=0.1)
    assert exceeding(0, 0, 300, 0.0, SLACK) == 1.0


def test_only_losses_come_near_the_binomial_test() -> None:
    p = exceeding(10, 0, 300, 0.01, SLACK)
    assert stats.binomtest(10, 300, 0.01, alternative="greater").pvalue <= p <= 0.02


def test_a_margin_that_nothing_exceeds() -> None:
    assert exceeding(50, 0, 50, 1.0, SLACK) == 1.0
    assert exceeding(0, 50, 50, 0.01, SLACK) == 1.0


@pytest.mark.parametrize("samples", [10_000, 1_000_000])
def test_many_pairs_agree_with_the_normal_approximation(samples: int) -> None:
    gains = samples // 50
    losses = gains + round(0.01 * samples + 2 * np.sqrt(samples * 0.05))
    normal = stats.norm.sf(score(np.array(losses), np.array(gains), samples, 0.01))
    assert exceeding(losses, gains, samples, 0.01, 1e-4) == pytest.approx(normal, rel=0.1)


@pytest.mark.parametrize("counts", [(1, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_impossible_counts(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be among"):
        exceeding(*counts, 0.01, SLACK)
