import numpy as np
import pytest

from fewbits.sensitivity.output_error import OutputError, output_error


def test_is_one_over_the_signal_to_noise_ratio():
    reference = {"y": np.array([3.0, 4.0], np.float32)}
    changed = {"y": np.array([3.0, 4.5], np.float32)}
    assert output_error([reference], [changed]) == pytest.approx(0.25 / 25)


def test_batches_add_up_whatever_their_sizes():
    rng = np.random.default_rng(0)
    y, z = rng.normal(size=(2, 30, 5)).astype(np.float32)
    whole = output_error([{"y": y}], [{"y": z}])
    parts = [slice(0, 7), slice(7, 8), slice(8, 30)]
    assert output_error(({"y": y[p]} for p in parts), ({"y": z[p]} for p in parts)) == pytest.approx(whole)


def test_integer_outputs_do_not_count():
    reference = {"y": np.ones(2, np.float32), "classes": np.array([1, 2])}
    assert output_error([reference], [{"y": np.ones(2, np.float32), "classes": np.array([9, 9])}]) == 0.0


def test_infinities_of_the_original_are_left_out_and_new_nans_are_infinitely_bad():
    reference = {"y": np.array([1.0, -np.inf], np.float32)}
    assert OutputError().update(reference, {"y": np.array([1.0, 5.0], np.float32)}).relative == 0.0
    assert OutputError().update(reference, {"y": np.array([np.nan, 5.0], np.float32)}).relative == float("inf")


def test_an_output_of_zeros_gives_the_plain_error():
    assert output_error([{"y": np.zeros(3, np.float32)}], [{"y": np.full(3, 2.0, np.float32)}]) == 12.0
