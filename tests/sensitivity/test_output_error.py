from __future__ import annotations

import numpy as np
import pytest

from fewbits.sensitivity.output_error import output_error
from fewbits.sensitivity.table import Harm

Array = np.ndarray


def test_is_one_over_the_signal_to_noise_ratio() -> None:
    reference = {"y": np.array([3.0, 4.0], np.float32)}
    changed = {"y": np.array([3.0, 4.5], np.float32)}
    assert output_error([reference], [changed]).value == pytest.approx(0.25 / 25)


def test_batches_add_up_whatever_their_sizes() -> None:
    rng = np.random.default_rng(0)
    y, z = rng.normal(size=(2, 30, 5)).astype(np.float32)
    whole = output_error([{"y": y}], [{"y": z}]).value
    parts = [slice(0, 7), slice(7, 8), slice(8, 30)]
    pieces = output_error(({"y": y[p]} for p in parts), ({"y": z[p]} for p in parts))
    assert pieces.value == pytest.approx(whole)
    assert pieces.harm.value == pieces.value


def test_integer_outputs_do_not_count() -> None:
    reference = {"y": np.ones(2, np.float32), "classes": np.array([1, 2])}
    changed = {"y": np.ones(2, np.float32), "classes": np.array([9, 9])}
    assert output_error([reference], [changed]).value == 0.0


def test_infinities_of_the_original_are_left_out_and_new_nans_are_infinitely_bad() -> None:
    reference = {"y": np.array([1.0, -np.inf], np.float32)}
    assert output_error([reference], [{"y": np.array([1.0, 5.0], np.float32)}]).value == 0.0
    broken = {"y": np.array([np.nan, 5.0], np.float32)}
    assert output_error([reference], [broken]).value == float("inf")
    assert output_error([reference] * 2, [broken, reference]).harm == Harm(float("inf"))


def test_an_output_of_zeros_gives_the_plain_error() -> None:
    assert output_error([{"y": np.zeros(3, np.float32)}], [{"y": np.full(3, 2.0, np.float32)}]).value == 12.0


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
