"""The likeliest cause of a loss, on products that were made to have just one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fewbits.formats.integer import INT8R, UINT8
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import INT8_CHANNEL, INT8_TENSOR
from fewbits.refine.diagnosis import Cause, Diagnosis, diagnose

Float = NDArray[np.float32]
DEPTH = 64


def numbers(*shape: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen(
    inputs: Float, weight: Float, *, reach: float = 1.0, format: ScaledFormat = INT8_CHANNEL, signed: bool = False
) -> Diagnosis:
    low, high = reach * float(inputs.min()), reach * float(inputs.max())
    return diagnose(inputs[None], weight[None], low, high, INT8R if signed else UINT8, format)


def cause(found: Diagnosis, *, shared: bool = False, signed: bool = False, softmax: bool = False) -> Cause:
    return found.cause(shared_scale=shared, symmetric_inputs=signed, behind_softmax=softmax)


def test_a_range_that_cuts() -> None:
    found = seen(numbers(256, DEPTH), numbers(32, DEPTH, seed=1), reach=0.3)
    assert cause(found) is Cause.CLIPPING
    assert found.clipped > 0.9


def test_outlier_channels() -> None:
    x = numbers(256, DEPTH)
    x[:, 5] *= 60
    weight = numbers(32, DEPTH, seed=1)
    weight[:, 5] /= 60
    found = seen(x, weight)
    assert cause(found) is Cause.OUTLIERS
    assert found.outliers == pytest.approx(60, rel=0.4)
    assert found.inputs_error > found.weight_error


def test_a_long_tail_in_every_channel() -> None:
    x = np.random.default_rng(0).standard_t(2, (2048, DEPTH)).astype(np.float32)
    found = seen(x, numbers(32, DEPTH, seed=1))
    assert cause(found) is Cause.TAIL


def test_values_on_one_side_of_zero_without_a_zero_point() -> None:
    x, weight = np.abs(numbers(256, DEPTH)) + 2, np.rint(numbers(32, DEPTH, seed=1) * 30)
    weight[:, 0] = 127  # nothing is lost by rounding it
    found = seen(x, weight, signed=True)
    assert found.lopsided > 0.5
    assert cause(found, signed=True) is Cause.LOPSIDED
    assert seen(x, weight).inputs_error < found.inputs_error


def test_means_that_shift() -> None:
    found = seen(numbers(256, DEPTH) * 0.1 + 5, numbers(32, DEPTH, seed=1))
    assert cause(found) is Cause.SHIFT
    assert found.shift > 0.9


def test_probabilities() -> None:
    x = np.exp(numbers(256, DEPTH) * 3)
    x /= x.sum(axis=1, keepdims=True)
    assert cause(seen(x, numbers(32, DEPTH, seed=1)), softmax=True) is Cause.SOFTMAX


def test_weights_with_a_tail() -> None:
    weight = numbers(32, DEPTH, seed=1)
    weight[:, 3] = 40
    x = numbers(256, DEPTH)
    x[:, 3] *= 0.001
    found = seen(x, weight)
    assert cause(found) is Cause.WEIGHTS
    assert found.weight_tail > 6


def test_channels_that_share_one_scale() -> None:
    weight = numbers(32, DEPTH, seed=1) * np.geomspace(0.01, 10, 32, dtype=np.float32)[:, None]
    found = diagnose(
        np.rint(numbers(1, 256, DEPTH) * 20).clip(-127, 127) / 127, weight[None], -1, 1, INT8R, INT8_TENSOR
    )
    assert found.weight_spread > 100
    assert cause(found, shared=True) is Cause.CHANNELS


def test_nothing_in_particular() -> None:
    found = seen(numbers(256, DEPTH), numbers(32, DEPTH, seed=1))
    assert cause(found) in (Cause.RESOLUTION, Cause.WEIGHT_RESOLUTION, Cause.HARMLESS)


def test_zeros_are_no_trouble() -> None:
    found = diagnose(np.zeros((1, 4, 8)), np.zeros((1, 2, 8)), 0.0, 0.0, UINT8, INT8_CHANNEL)
    assert found.inputs_error == found.weight_error == 0
    assert cause(found) is Cause.HARMLESS


def test_channels_of_a_convolution_are_those_before_the_kernel() -> None:
    """Nine taps of each of four channels: the third channel is large, not one feature."""
    x = numbers(1, 256, 36)
    x[..., 18:27] *= 50
    found = diagnose(x, numbers(1, 8, 36, seed=1), float(x.min()), float(x.max()), UINT8, INT8_CHANNEL, channels=4)
    assert found.outliers == pytest.approx(50, rel=0.5)
