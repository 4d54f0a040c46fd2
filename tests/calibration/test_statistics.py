"""Laws of the streaming statistics, and what they say about bad input."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewbits.calibration.magnitude_histogram import MAX_BINS as MAGNITUDE_BINS
from fewbits.calibration.magnitude_histogram import MagnitudeHistogram
from fewbits.calibration.signed_histogram import MAX_BINS as SIGNED_BINS
from fewbits.calibration.signed_histogram import SignedHistogram
from fewbits.calibration.statistics import MinMax, Statistic
from fewbits.errors import DataError

ALL = [MinMax, SignedHistogram, MagnitudeHistogram]
# Their state depends only on which values were seen, not on the order or grouping.
ORDER_FREE = [MinMax, SignedHistogram]

# Every finite float32, subnormals and signed zeros among them.
batches = st.lists(
    arrays(np.float32, st.integers(0, 20), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)),
    min_size=1,
    max_size=5,
)


def state(statistic: Statistic) -> tuple[object, ...]:
    if isinstance(statistic, MinMax):
        return statistic.low, statistic.high, statistic.count
    if isinstance(statistic, SignedHistogram):
        return (
            statistic.exponent,
            statistic.first,
            statistic.counts.tolist(),
            statistic.low,
            statistic.high,
            statistic.zeros,
        )
    assert isinstance(statistic, MagnitudeHistogram)
    return statistic.width, statistic.counts.tolist(), statistic.low, statistic.high


def of(kind: type[Statistic], *parts: np.ndarray) -> Statistic:
    statistic = kind.init()
    for part in parts:
        statistic = statistic.update(part)
    return statistic


@pytest.mark.parametrize("kind", ORDER_FREE)
@given(parts=batches, data=st.data())
@settings(deadline=None, max_examples=60)
def test_state_depends_only_on_the_values_seen(
    kind: type[Statistic], parts: list[np.ndarray], data: st.DataObject
) -> None:
    expected = state(of(kind, np.concatenate(parts)))
    shuffled = data.draw(st.permutations(parts))
    assert state(of(kind, *shuffled)) == expected
    split = data.draw(st.integers(0, len(parts)))
    left, right = of(kind, *shuffled[:split]), of(kind, *shuffled[split:])
    assert state(left.merge(right)) == expected
    assert state(right.merge(left)) == expected


@pytest.mark.parametrize("kind", ORDER_FREE)
@given(parts=st.tuples(*[arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32))] * 3))
@settings(deadline=None, max_examples=40)
def test_merge_is_associative(kind: type[Statistic], parts: tuple[np.ndarray, ...]) -> None:
    a, b, c = (of(kind, part) for part in parts)
    assert state(a.merge(b).merge(c)) == state(a.merge(b.merge(c)))


@pytest.mark.parametrize("kind", ALL)
@given(parts=batches)
@settings(deadline=None, max_examples=60)
def test_no_value_is_lost_and_extremes_are_exact(kind: type[Statistic], parts: list[np.ndarray]) -> None:
    values = np.concatenate(parts)
    statistic = of(kind, *parts)
    assert statistic.count == values.size
    if values.size:
        assert isinstance(statistic, MinMax | SignedHistogram | MagnitudeHistogram)
        assert (statistic.low, statistic.high) == (values.min(), values.max())


@given(parts=batches)
@settings(deadline=None, max_examples=60)
def test_signed_bins_hold_the_values_that_they_say(parts: list[np.ndarray]) -> None:
    values = np.concatenate(parts).astype(np.float64)
    histogram = of(SignedHistogram, *parts)
    assert isinstance(histogram, SignedHistogram)
    assert histogram.counts.size <= SIGNED_BINS
    assert histogram.zeros == np.count_nonzero(values == 0)
    edges = (histogram.first + np.arange(histogram.counts.size + 1)) * histogram.width
    assert histogram.counts.tolist() == [
        np.count_nonzero((values >= low) & (values < high)) for low, high in itertools.pairwise(edges)
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 0), (-1, 1), (-0.17, 9), (-3e-30, 1e-30), (1, 1.5)])
def test_signed_bins_are_fine_enough_for_eight_bits(low: float, high: float) -> None:
    histogram = SignedHistogram.init().update(np.array([low, high], np.float32))
    whole = max(high, 0) - min(low, 0)
    assert SIGNED_BINS / 2 < whole / histogram.width + 2 <= SIGNED_BINS + 2


def test_magnitudes_match_numpy_on_the_first_batch() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 700)).astype(np.float32)
    histogram = MagnitudeHistogram.init().update(x)
    largest = float(np.abs(x).max())
    expected, _ = np.histogram(np.abs(x).astype(np.float64), bins=2048, range=(0, largest))
    assert histogram.width == largest / 2048
    # One ulp decides on which side of an edge a value falls.
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 2


def test_magnitudes_append_bins_of_the_same_width_and_leave_the_first_alone() -> None:
    first = MagnitudeHistogram.init().update(np.array([0.1, -1.0], np.float32))
    second = first.update(np.array([2.5], np.float32))
    assert second.width == first.width == 1 / 2048
    assert second.counts.size == 5120
    assert second.counts[:2048].tolist() == first.counts.tolist()
    assert second.counts[-1] == 1
    assert second.counts.sum() == 3


def test_magnitudes_wait_for_the_first_batch_that_is_not_all_zeros() -> None:
    zeros = MagnitudeHistogram.init().update(np.zeros(7, np.float32))
    assert (zeros.width, zeros.count) == (0.0, 7)
    after = zeros.update(np.array([-4.0], np.float32))
    assert after.width == 4 / 2048
    assert (after.counts[0], after.counts[-1]) == (7, 1)


@pytest.mark.parametrize("growth", [1e3, 1e30])
def test_magnitudes_stay_bounded_however_far_the_range_grows(growth: float) -> None:
    first = MagnitudeHistogram.init().update(np.linspace(0, 1e-3, 500, dtype=np.float32))
    grown = first.update(np.array([growth], np.float32))
    assert MAGNITUDE_BINS / 2 < grown.counts.size <= MAGNITUDE_BINS
    assert grown.counts.size * grown.width >= growth
    assert (grown.counts[0], grown.counts[-1], grown.count) == (500, 1, 501)


def test_joined_bins_are_what_binning_at_the_wider_width_gives() -> None:
    rng = np.random.default_rng(1)
    small, large = rng.random(4000).astype(np.float32), np.array([8.0], np.float32)
    small[0] = 1.0
    joined = MagnitudeHistogram.init().update(small).update(large)
    assert joined.width == 2 / 2048
    expected = np.bincount((small.astype(np.float64) / joined.width).astype(int), minlength=joined.counts.size)
    # The largest value of the first batch lies on the upper edge of its last bin, 2047, and stays with it.
    expected[1023] += 1
    expected[1024] -= 1
    expected[-1] += 1
    assert joined.counts.tolist() == expected.tolist()


@given(parts=batches)
@settings(deadline=None, max_examples=40)
def test_magnitudes_merge_is_commutative(parts: list[np.ndarray]) -> None:
    a, b = of(MagnitudeHistogram, *parts[::2]), of(MagnitudeHistogram, *parts[1::2])
    assert state(a.merge(b)) == state(b.merge(a))


def test_magnitudes_merge_is_sequence_when_widths_agree() -> None:
    rng = np.random.default_rng(2)
    parts = [rng.uniform(-1, 1, 1000).astype(np.float32) for _ in range(4)]
    parts[0][0] = parts[2][0] = 1.0  # the width of both halves
    parts[3][0] = 3.0  # and one of them grows
    sequence = of(MagnitudeHistogram, *parts)
    merged = of(MagnitudeHistogram, *parts[:2]).merge(of(MagnitudeHistogram, *parts[2:]))
    assert state(merged) == state(sequence)


def test_magnitudes_merge_of_other_widths_moves_no_value_by_more_than_a_bin() -> None:
    rng = np.random.default_rng(3)
    a, b = np.abs(rng.normal(size=3000)).astype(np.float32), (np.abs(rng.normal(size=3000)) * 1.3).astype(np.float32)
    merged = of(MagnitudeHistogram, a).merge(of(MagnitudeHistogram, b))
    assert isinstance(merged, MagnitudeHistogram)
    values = np.sort(np.concatenate([a, b]).astype(np.float64))
    for k in range(0, merged.counts.size, 50):
        below = merged.counts[:k].sum()
        edge = k * merged.width
        at_least, at_most = np.searchsorted(values, [edge - merged.width, edge + merged.width])
        assert at_least <= below <= at_most


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_activation_is_named(kind: type[Statistic], bad: float) -> None:
    x = np.ones((2, 3), np.float32)
    x[1, 1] = bad
    with pytest.raises(DataError, match="non-finite activation"):
        kind.init().update(x)


@pytest.mark.parametrize("kind", ALL)
def test_empty_arrays_change_nothing(kind: type[Statistic]) -> None:
    empty = np.zeros((0, 3), np.float32)
    assert state(kind.init().update(empty)) == state(kind.init())
    once = kind.init().update(np.array([1.5], np.float32))
    assert state(once.update(empty)) == state(once)
    assert state(once.merge(kind.init())) == state(kind.init().merge(once)) == state(once)


@pytest.mark.parametrize("kind", ALL)
def test_update_leaves_the_old_state_alone(kind: type[Statistic]) -> None:
    old = kind.init().update(np.array([-1.0, 2.0], np.float32))
    before = state(old)
    old.update(np.array([1e6], np.float32))
    assert state(old) == before
    with pytest.raises(FrozenInstanceError):
        old.low = 0.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [SignedHistogram, MagnitudeHistogram])
def test_counts_cannot_be_written(kind: type[SignedHistogram | MagnitudeHistogram]) -> None:
    with pytest.raises(ValueError, match="read-only"):
        kind.init().update(np.ones(3, np.float32)).counts[0] = 1


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shape_layout_and_float_type_do_not_matter(kind: type[Statistic], dtype: type[np.floating]) -> None:
    x = np.random.default_rng(4).normal(size=(4, 6, 5)).astype(np.float16)
    assert state(of(kind, x.astype(dtype).transpose(2, 0, 1)[:, ::-1])) == state(of(kind, x.reshape(-1)))


@pytest.mark.parametrize("kind", ALL)
def test_arrays_larger_than_a_block_are_counted_in_full(kind: type[Statistic]) -> None:
    x = np.random.default_rng(5).normal(size=200_001).astype(np.float32)
    parts = np.array_split(x, 7)
    whole = of(kind, x)
    assert whole.count == x.size
    if kind in ORDER_FREE:
        assert state(of(kind, *parts)) == state(whole)
