"""Samples of rows that hold the largest values and weigh the others: what they tell of all rows is unbiased."""

from __future__ import annotations

import numpy as np
import pytest

from fewbits.flow.remedies.strata import Strata

ROWS, MOST, PEAKS = 10_000, 500, 20


def rows(outliers: int = 1) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((ROWS, 6)).astype(np.float32)
    x[np.linspace(7, ROWS - 7, outliers, dtype=int), 2] = np.linspace(300, 400, outliers)
    return x


def sampled(x: np.ndarray, *, seed: int = 0, parts: int = 9) -> tuple[np.ndarray, np.ndarray]:
    made = Strata(x.shape[1], MOST, PEAKS, seed)
    for part in np.array_split(x, parts):
        made = made.update(part)
    assert made.seen == len(x)
    return made.sample


@pytest.mark.parametrize("outliers", [1, 5])
def test_the_largest_rows_are_all_there_once(outliers: int) -> None:
    x = rows(outliers)
    for seed in range(10):
        sample, counts = sampled(x, seed=seed)
        largest = np.abs(x).max(axis=1).argsort()[-PEAKS:]
        alone = sample[counts == 1.0]
        assert {*map(tuple, x[largest])} == {*map(tuple, alone)} and len(alone) == PEAKS
        # No row twice, and as many as asked for, but for large ones that were drawn, too.
        assert len(np.unique(sample, axis=0)) == len(sample) >= MOST - PEAKS
        assert counts.sum() == pytest.approx(ROWS)


def test_what_it_tells_of_all_rows_is_unbiased() -> None:
    """Means of squares, of which one row in ten thousand is most: an even sample of as many rows misses it mostly."""
    x = rows()
    squares = np.square(x.astype(np.float64)).sum(axis=1)
    trials = []
    for seed in range(200):
        sample, counts = sampled(x, seed=seed)
        trials.append(float(counts @ np.square(sample.astype(np.float64)).sum(axis=1)) / ROWS)
    error = np.std(trials, ddof=1) / np.sqrt(len(trials))
    assert abs(np.mean(trials) - squares.mean()) < 4 * error
    assert np.std(trials) < 0.05 * squares.mean()
    even = [np.random.default_rng(seed).choice(squares, MOST).mean() for seed in range(200)]
    assert np.median(even) < 0.6 * squares.mean()


def test_of_few_rows_all_are_there() -> None:
    x = rows()[: MOST - PEAKS]
    sample, counts = sampled(x)
    assert np.array_equal(np.sort(sample, axis=0), np.sort(x, axis=0)) and np.all(counts == 1)


def test_no_rows_are_no_sample() -> None:
    sample, counts = Strata(6, MOST, PEAKS).update(np.zeros((0, 6), np.float32)).sample
    assert sample.shape == (0, 6) and counts.shape == (0,)
