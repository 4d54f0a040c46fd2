from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.numerics.scales import per_element
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse
from fewbits.refine.hqq import RealZeroPoints, hqq


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def costs(values: NDArray[np.float32], weight: NDArray[np.float32], found: RealZeroPoints) -> NDArray[np.float64]:
    """``|x' - x|^0.7`` in steps."""
    steps = per_element(found.q.scale, found.q.tile, weight.shape)
    return np.abs((values.astype(np.float64) - weight) / steps) ** 0.7


@pytest.mark.parametrize(
    "text", ["uint4/g64", "uint3/g32", "uint2/channel", "int4/g50/asym", "uint4/tensor", "uint4/tile8x8"]
)
def test_no_tile_is_worse_than_rounding_to_nearest(text: str) -> None:
    weight = np.random.default_rng(0).standard_t(4, size=(48, 160)).astype(np.float32)
    found = hqq(weight, scaled(text))
    before = costs(fake_quantize(weight, scaled(text)), weight, found)
    after = costs(found.values, weight, found)
    places = np.arange(found.q.scale.size).reshape(found.q.scale.shape)
    tile = per_element(places, found.q.tile, weight.shape).reshape(-1)
    ends = (np.bincount(tile, cost.reshape(-1)) for cost in (after, before))
    assert (next(ends) <= next(ends) * (1 + 1e-4)).all()
    assert found.error == pytest.approx(after.mean(), rel=1e-3)
    assert found.start_error == pytest.approx(before.mean(), rel=1e-3)
    assert found.error < found.start_error


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_more_iterations_are_never_worse(seed: int, iterations: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((4, 48)).astype(np.float32)
    errors = [hqq(weight, scaled("uint3/g16"), iterations=count).error for count in (0, iterations, iterations + 3)]
    assert errors[0] >= errors[1] >= errors[2]


def test_values_are_scale_times_code_minus_zero_point() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    found = hqq(weight, scaled("uint4/g32"))
    scale, zero = (per_element(values, (1, 32), weight.shape) for values in (found.q.scale, found.zero_point))
    np.testing.assert_allclose(found.values, scale * (found.q.codes - zero), atol=1e-6)
    assert (np.abs(found.zero_point - found.q.zero_point) > 0.01).any()


def test_the_unit_of_the_weight_does_not_matter() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    np.testing.assert_array_equal(
        hqq(weight, scaled("uint4/g32")).q.codes, hqq(weight / 1024, scaled("uint4/g32")).q.codes
    )


def test_a_large_weight_is_as_a_small_one() -> None:
    """Compiled kernels take over from 2**16 elements on."""
    weight = np.random.default_rng(0).standard_normal((300, 256)).astype(np.float32)
    whole, parts = hqq(weight, scaled("uint4/g64")), [hqq(part, scaled("uint4/g64")) for part in np.split(weight, 3)]
    np.testing.assert_array_equal(whole.q.codes, np.concatenate([part.q.codes for part in parts]))


def test_what_has_no_zero_points_is_refused() -> None:
    with pytest.raises(FormatError, match="uint4/g64"):
        hqq(np.ones((2, 8)), scaled("int4r/g8"))
    with pytest.raises(DataError, match="NaN"):
        hqq(np.full((2, 8), np.inf), scaled("uint4/g8"))
