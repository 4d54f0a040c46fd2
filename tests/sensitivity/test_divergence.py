"""The divergence of class probabilities: by scipy, and the laws that it keeps by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from fewbits.errors import UsageError
from fewbits.sensitivity.divergence import check_classes, divergence

Array = np.ndarray


def logits(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


def kl(original: Array, changed: Array) -> float:
    return divergence([{"y": original}], [{"y": changed}]).value


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 6)])
def test_it_is_scipys_relative_entropy(shape: tuple[int, ...]) -> None:
    ours, theirs = logits(0, *shape), logits(1, *shape)
    expected = entropy(softmax(ours.astype(float), axis=-1), softmax(theirs.astype(float), axis=-1), axis=-1)
    assert kl(ours, theirs) == pytest.approx(expected.mean())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(-50, 50), st.floats(0, 2))
def test_laws(seed: int, constant: float, noise: float) -> None:
    """Never negative, nothing for the same outputs, and a constant on all scores of a position changes nothing."""
    ours = logits(seed, 4, 9)
    theirs = ours + noise * logits(seed + 1, 4, 9)
    assert kl(ours, ours) == 0
    assert kl(ours, theirs) >= 0
    assert kl(ours, ours + np.float32(constant)) == pytest.approx(0, abs=1e-6)
    assert kl(ours, theirs + constant) == pytest.approx(kl(ours, theirs), rel=1e-4, abs=1e-6)


def test_a_small_change_is_a_quadratic_form() -> None:
    """Half the variance of the change under the original's probabilities (the Fisher information)."""
    ours, step = logits(2, 1, 8).astype(float), 1e-3 * logits(3, 1, 8).astype(float)
    p = softmax(ours[0])
    variance = (p * step[0] ** 2).sum() - (p * step[0]).sum() ** 2
    assert kl(ours, ours + step) == pytest.approx(variance / 2, rel=1e-2)


def test_batches_are_weighted_by_their_positions() -> None:
    ours, theirs = logits(4, 30, 5), logits(5, 30, 5)
    parts = [slice(0, 7), slice(7, 8), slice(8, 30)]
    pieces = divergence([{"y": ours[p]} for p in parts], [{"y": theirs[p]} for p in parts])
    assert pieces.value == pytest.approx(kl(ours, theirs))
    assert 0 < pieces.harm.error < pieces.value


def test_probabilities_are_taken_as_they_are() -> None:
    """Not put through a second softmax; zeros in them are no catastrophe."""
    ours, theirs = logits(6, 5, 7), logits(7, 5, 7)
    p, q = softmax(ours, axis=-1), softmax(theirs, axis=-1)
    assert kl(p, q) == pytest.approx(kl(ours, theirs), rel=1e-4)
    sure = np.eye(3, dtype=np.float32)
    assert kl(sure, sure) == 0
    assert np.isfinite(kl(sure, sure[::-1])) and kl(sure, sure[::-1]) > 10


def test_a_class_that_cannot_be_adds_nothing_and_a_new_nan_is_infinite() -> None:
    ours = logits(8, 3, 4)
    masked = ours.copy()
    masked[:, 0] = -np.inf
    assert kl(masked, masked) == 0
    assert kl(masked, ours) == pytest.approx(kl(masked, masked) + np.log(1 / (1 - softmax(ours, axis=1)[:, 0])).mean())
    assert kl(ours, masked) == np.inf
    broken = ours.copy()
    broken[1, 2] = np.nan
    assert kl(ours, broken) == np.inf
    assert kl(broken, ours) == 0, "where the original says nothing, nothing is compared"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[1], [2]]), "of type int64, and scores are floats"),
        (np.ones(3, np.float32), r"\(samples, classes\)"),
        (np.ones((1, 2, 3, 4), np.float32), r"\(samples, positions, classes\)"),
        (np.ones((3, 1), np.float32), "a single figure"),
        (logits(9, 4, 8) / np.linalg.norm(logits(9, 4, 8), axis=1, keepdims=True), "they are embeddings"),
    ],
)
def test_what_is_no_distribution_over_classes_is_refused(values: Array, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_classes({"out": values})
    with pytest.raises(UsageError, match=r"'out'.*Measure sensitivity by output"):
        divergence([{"out": values}], [{"out": values}])


def test_certain_answers_are_no_embeddings() -> None:
    check_classes({"out": np.eye(3, dtype=np.float32)})
