"""The approximate test: against scipy, and what it promises for even and for skewed values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from fewbits.verify.skewed_mean import exceeding

Draw = Callable[[np.random.Generator], np.ndarray]


def test_without_skewness_it_is_students() -> None:
    half = np.random.default_rng(0).standard_normal(20) + 0.3
    values = np.concatenate([half, 2 * half.mean() - half])
    assert exceeding(values, 0.0) == pytest.approx(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue)


def errors(draw: Draw, mean: float, sign: float) -> tuple[float, float]:
    """How often this test, and Student's alone, reject at 5 % what is true."""
    random = np.random.default_rng(1)
    sets = [sign * draw(random) for _ in range(2000)]
    ours = np.mean([exceeding(each, sign * mean) <= 0.05 for each in sets])
    plain = stats.ttest_1samp(np.array(sets), sign * mean, axis=1, alternative="greater").pvalue <= 0.05
    return float(ours), float(plain.mean())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_quantisation_noise_in_squared_errors_comes_close_to_the_promise(sign: float) -> None:
    def draw(random: np.random.Generator) -> np.ndarray:
        error, noise = random.standard_t(6, 64), 0.3 * random.standard_normal(64)
        return (error + noise) ** 2 - error**2

    assert errors(draw, 0.09, sign)[0] <= 0.07


def test_skewed_values_mislead_it_less_than_students() -> None:
    def draw(random: np.random.Generator) -> np.ndarray:
        return np.exp(random.standard_normal(64))

    ours, plain = errors(draw, float(np.exp(0.5)), -1.0)
    assert plain > 0.1
    assert ours < 0.85 * plain
    assert errors(draw, float(np.exp(0.5)), 1.0)[0] <= 0.05


def test_equal_values_are_certain_and_one_says_nothing() -> None:
    assert exceeding(np.full(5, 0.3), 0.2) == 0.0
    assert exceeding(np.full(5, 0.3), 0.3) == 1.0
    assert exceeding(np.zeros(5), 0.0) == 1.0
    assert exceeding(np.array([9.0]), 0.0) == 1.0
    with pytest.raises(ValueError, match="at least one"):
        exceeding(np.array([]), 0.0)
