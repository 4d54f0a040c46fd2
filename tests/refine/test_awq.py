from __future__ import annotations

import numpy as np
import pytest

from fewbits.errors import DataError
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse
from fewbits.refine.awq import search_factors
from fewbits.refine.channel_mean import ChannelMean
from fewbits.refine.gram import output_errors
from refined_layers import Problem, problem


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def magnitude(one: Problem) -> np.ndarray:
    return ChannelMean.empty(one.inputs.shape[1]).update(np.abs(one.inputs), axis=-1).mean


def test_the_factors_preserve_the_product() -> None:
    one = problem(0, size=64)
    found = search_factors(one.weight, one.gram, magnitude(one), scaled("uint4/g32"))
    expected = one.held @ one.weight.T
    product = (one.held / found.factors) @ found.scaled(one.weight).T
    np.testing.assert_allclose(product, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("text", ["uint4/g32", "int3r/channel", "int8r/tensor", "mxfp4", "nvfp4"])
def test_the_error_is_that_of_the_outputs_and_never_above_the_plain_one(text: str) -> None:
    one = problem(0, size=64)
    found = search_factors(one.weight, one.gram, magnitude(one), scaled(text))
    rounded = fake_quantize(one.weight * found.factors, scaled(text)) / found.factors
    assert found.error == pytest.approx(output_errors(rounded - one.weight, one.gram).sum(), rel=1e-4)
    plain = output_errors(fake_quantize(one.weight, scaled(text)) - one.weight, one.gram).sum()
    assert found.plain_error == pytest.approx(plain, rel=1e-3)
    assert found.error <= found.plain_error


def test_large_inputs_get_large_factors() -> None:
    one = problem(0, size=64)
    found = search_factors(one.weight, one.gram, magnitude(one), scaled("uint4/g32"))
    assert 0.2 <= found.alpha <= 0.8
    assert set(np.argsort(found.factors)[-6:]) == set(np.argsort(magnitude(one))[-6:])
    assert found.factors.max() * found.factors.min() == pytest.approx(1)


def test_equal_inputs_are_left_alone() -> None:
    one = problem(0, size=64)
    found = search_factors(one.weight, one.gram, np.ones(64), scaled("uint4/g32"))
    assert (found.alpha, found.error) == (0.0, found.plain_error)
    assert (found.factors == 1).all()


def test_inputs_that_never_came_do_no_harm() -> None:
    one = problem(0, size=64)
    quiet = magnitude(one)
    quiet[:3] = 0
    assert np.isfinite(search_factors(one.weight, one.gram, quiet, scaled("uint4/g32")).factors).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    one = problem(0, size=64)
    with pytest.raises(DataError, match=r"\(63,\)"):
        search_factors(one.weight, one.gram, np.ones(63), scaled("uint4/g32"))
