from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.sensitivity.output_error import OutputError, output_error
from fewbits.sensitivity.table import Harm

Array = np.ndarray


def test_is_one_over_the_signal_to_noise_ratio() -> None:
    reference = {"y": np.array([3.0, 4.0], np.float32)}
    changed = {"y": np.array([3.0, 4.5], np.float32)}
    assert output_error([reference], [changed]).relative == pytest.approx(0.25 / 25)


def test_batches_add_up_whatever_their_sizes() -> None:
    rng = np.random.default_rng(0)
    y, z = rng.normal(size=(2, 30, 5)).astype(np.float32)
    whole = output_error([{"y": y}], [{"y": z}]).relative
    parts = [slice(0, 7), slice(7, 8), slice(8, 30)]
    pieces = output_error(({"y": y[p]} for p in parts), ({"y": z[p]} for p in parts))
    assert pieces.relative == pytest.approx(whole)
    assert pieces.harm.value == pieces.relative


def test_integer_outputs_do_not_count() -> None:
    reference = {"y": np.ones(2, np.float32), "classes": np.array([1, 2])}
    changed = {"y": np.ones(2, np.float32), "classes": np.array([9, 9])}
    assert output_error([reference], [changed]).relative == 0.0


def test_infinities_of_the_original_are_left_out_and_new_nans_are_infinitely_bad() -> None:
    reference = {"y": np.array([1.0, -np.inf], np.float32)}
    assert OutputError().update(reference, {"y": np.array([1.0, 5.0], np.float32)}).relative == 0.0
    broken = OutputError().update(reference, {"y": np.array([np.nan, 5.0], np.float32)})
    assert broken.relative == float("inf")
    assert broken.update(reference, reference).harm == Harm(float("inf"))


def test_an_output_of_zeros_gives_the_plain_error() -> None:
    assert output_error([{"y": np.zeros(3, np.float32)}], [{"y": np.full(3, 2.0, np.float32)}]).relative == 12.0


def test_one_batch_says_nothing_about_the_spread() -> None:
    error = output_error([{"y": np.ones(4, np.float32)}], [{"y": np.zeros(4, np.float32)}])
    assert error.harm == Harm(1.0, 0.0)


def test_batches_that_agree_leave_no_doubt() -> None:
    """Errors are in proportion to the outputs in every batch, so the ratio is the same without any of them."""
    originals = [{"y": np.full(4, size, np.float32)} for size in (1.0, 2.0, 8.0)]
    changed = [{"y": one["y"] * np.float32(1.5)} for one in originals]
    harm = output_error(originals, changed).harm
    assert harm.value == pytest.approx(0.25)
    assert harm.error == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30), st.integers(0, 1000))
def test_with_outputs_of_one_size_it_is_the_standard_error_of_the_mean(batches: int, seed: int) -> None:
    """The jackknife of a mean is the textbook formula (Efron & Stein 1981, section 1)."""
    rng = np.random.default_rng(seed)
    differences = rng.uniform(0, 1, batches)
    originals = [{"y": np.full(1, 2.0)} for _ in range(batches)]
    changed = [{"y": 2.0 + np.sqrt([one])} for one in differences]
    harm = output_error(originals, changed).harm
    assert harm.value == pytest.approx(differences.mean() / 4)
    assert harm.error == pytest.approx(differences.std(ddof=1) / np.sqrt(batches) / 4)


def test_the_standard_error_is_the_spread_that_is_seen() -> None:
    """Of the ratio over many draws of the batches, to a few percent."""
    rng = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(400):
        reference = [{"y": rng.normal(size=8) * rng.uniform(0.5, 1.5)} for _ in range(30)]
        changed = [{"y": one["y"] + 0.1 * rng.normal(size=8)} for one in reference]
        harm = output_error(reference, changed).harm
        values.append(harm.value)
        errors.append(harm.error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)
