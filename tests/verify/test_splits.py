"""Which samples serve which purpose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.data.arrays import ArrayDataset
from fewbits.data.batches import Array, Batch, Dataset
from fewbits.errors import DataError
from fewbits.verify.splits import LITTLE, Splits, split, spread


def dataset(samples: int, labels: Array | None = None, offset: int = 0) -> Dataset:
    """Each sample is its own number."""
    return ArrayDataset.of(Batch({"x": np.arange(offset, offset + samples)}, labels))


def numbers(part: Dataset) -> list[int]:
    return [number for batch in part.batches(100) for number in batch.inputs["x"].tolist()]


def parts(splits: Splits) -> list[list[int]]:
    return [numbers(part) for part in (splits.calibration, splits.search, splits.selection, splits.acceptance)]


@given(samples=st.integers(LITTLE, 3000), seed=st.integers(0, 5), classes=st.integers(1, 12))
def test_enough_data_is_divided_without_overlap_or_rest(samples: int, seed: int, classes: int) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=samples)
    splits = split(dataset(samples, labels), seed=seed)
    every = [number for part in parts(splits) for number in part]
    assert sorted(every) == list(range(samples))
    assert splits.shared == ()
    assert splits.calibration.samples <= 512
    assert splits.search.samples <= 256
    assert abs(splits.selection.samples - splits.acceptance.samples) <= 1
    assert all(parts(splits))


@given(samples=st.integers(2, LITTLE - 1))
def test_little_data_keeps_acceptance_apart_and_says_what_is_shared(samples: int) -> None:
    splits = split(dataset(samples))
    calibration, search, selection, acceptance = parts(splits)
    assert calibration == search == selection
    assert sorted(selection + acceptance) == list(range(samples))
    assert acceptance
    assert len(splits.shared) == 1
    assert "calibration, search and selection share" in splits.shared[0]
    assert f"the data has {samples} samples and {LITTLE} are needed" in splits.shared[0]


def test_one_sample_serves_everything_and_says_so() -> None:
    splits = split(dataset(1, np.array([3])))
    assert parts(splits) == [[0]] * 4
    assert "acceptance share the only sample, so the accuracy is not independent" in splits.shared[0]


@given(samples=st.integers(1, 1500), own=st.integers(1, 700))
def test_calibration_data_of_its_own_is_used_for_calibration_only(samples: int, own: int) -> None:
    given_data = dataset(own, offset=10_000)
    splits = split(dataset(samples), calibration=given_data)
    calibration, search, selection, acceptance = parts(splits)
    assert calibration == numbers(given_data)
    assert max(search + selection + acceptance) < 10_000
    assert set(search + selection + acceptance) == set(range(samples))
    if samples >= 2:
        assert not {*search, *selection} & set(acceptance)


def test_the_same_seed_gives_the_same_splits_and_another_does_not() -> None:
    data = dataset(500, np.arange(500) % 7)
    assert parts(split(data, seed=3)) == parts(split(data, seed=3))
    assert parts(split(data, seed=3)) != parts(split(data, seed=4))


@given(
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    seed=st.integers(0, 100),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_stretch_holds_each_class_in_its_share(counts: list[int], seed: int, cut: tuple[float, float]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = spread(labels, len(labels), seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    start, stop = sorted(round(share * len(labels)) for share in cut)
    found = np.bincount(labels[order[start:stop]], minlength=len(counts))
    # Positions are spread evenly per class, so each boundary of a stretch is off by at most one sample per class
    # plus the drift that all classes together can add to it.
    expected = np.array(counts) * (stop - start) / len(labels)
    drift = 2 + 2 * np.array(counts) * len(counts) / len(labels)
    assert (np.abs(found - expected) <= drift).all()


def test_classes_stay_in_proportion() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    splits = split(dataset(1000, labels))
    for part in (splits.calibration, splits.search, splits.selection, splits.acceptance):
        found = np.concatenate([np.asarray(batch.labels) for batch in part.batches(100)])
        assert abs((found == 1).mean() - 0.1) <= 2 / len(found)


def test_labels_that_are_no_classes_are_ignored() -> None:
    for labels in (np.linspace(0, 1, 100), np.zeros((100, 2), np.int64)):
        assert sorted(spread(labels, 100, 0).tolist()) == list(range(100))


def test_an_evaluate_function_with_its_own_data_leaves_all_samples_to_calibration_and_search() -> None:
    splits = split(dataset(300), scored=False)
    calibration, search, selection, acceptance = parts(splits)
    assert (len(calibration), len(search), selection, acceptance) == (200, 100, [], [])
    assert not set(calibration) & set(search)
    assert "evaluate function's own data" in splits.shared[-1]
    little = split(dataset(5), scored=False)
    assert sorted(numbers(little.calibration)) == sorted(numbers(little.search)) == list(range(5))
    assert "calibration and search share 5 samples" in little.shared[0]
    own = split(dataset(20), calibration=dataset(7, offset=100), scored=False)
    assert own.use.calibration == 7
    assert own.use.search == 20


def test_the_record_counts_samples() -> None:
    use = split(dataset(1000)).use
    assert (use.calibration, use.search, use.selection, use.acceptance) == (250, 125, 312, 313)
    assert use.shared == ()


def test_no_samples() -> None:
    with pytest.raises(DataError, match="no samples"):
        split(dataset(0))
