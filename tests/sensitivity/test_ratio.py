"""The standard error of a ratio of sums: by the textbook where there is a formula, and against what is seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewbits.sensitivity.ratio import Ratio
from fewbits.sensitivity.table import Harm


def test_all_parts_over_all_wholes() -> None:
    assert Ratio((1.0, 2.0), (4.0, 8.0)).value == 0.25
    assert Ratio((1.0, 2.0), (0.0, 0.0)).value == 3.0


def test_one_batch_says_nothing_about_the_spread() -> None:
    assert Ratio((4.0,), (4.0,)).harm == Harm(1.0, 0.0)


def test_what_is_not_finite_is_infinite() -> None:
    assert Ratio((np.nan, 1.0), (1.0, 1.0)).harm == Harm(np.inf)
    assert Ratio((np.inf, 1.0), (1.0, 1.0)).harm == Harm(np.inf)


def test_batches_that_agree_leave_no_doubt() -> None:
    harm = Ratio((1.0, 2.0, 8.0), (4.0, 8.0, 32.0)).harm
    assert harm.value == pytest.approx(0.25)
    assert harm.error == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30), st.integers(0, 1000))
def test_with_wholes_of_one_size_it_is_the_standard_error_of_the_mean(batches: int, seed: int) -> None:
    """The jackknife of a mean is the textbook formula (Efron & Stein 1981, section 1)."""
    parts = np.random.default_rng(seed).uniform(0, 1, batches)
    harm = Ratio(tuple(parts.tolist()), (4.0,) * batches).harm
    assert harm.value == pytest.approx(parts.mean() / 4)
    assert harm.error == pytest.approx(parts.std(ddof=1) / np.sqrt(batches) / 4)


@pytest.mark.parametrize("seed", range(3))
def test_the_standard_error_is_the_bootstraps(seed: int) -> None:
    """Of a ratio whose wholes vary, to the noise of so many batches."""
    rng = np.random.default_rng(seed)
    wholes = rng.uniform(0.5, 1.5, 100)
    parts = wholes * rng.gamma(2, 0.1, 100)

    def ratio(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(first.sum(axis=axis) / second.sum(axis=axis))

    drawn = stats.bootstrap(
        (parts, wholes), ratio, paired=True, n_resamples=4000, random_state=np.random.default_rng(0)
    )
    harm = Ratio(tuple(parts.tolist()), tuple(wholes.tolist())).harm
    assert harm.error == pytest.approx(drawn.standard_error, rel=0.06)
