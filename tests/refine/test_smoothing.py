from __future__ import annotations

import numpy as np
import pytest

from fewbits.errors import DataError
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse
from fewbits.refine.layer import Layer
from fewbits.refine.smoothing import search_smoothing, smoothing_factors
from refined_layers import problem


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def test_the_factors_are_equation_4() -> None:
    """The example of figure 5: ``max|X| = 2, 16, 2, 9``, ``max|W| = 2, 1, 2, 1`` gives ``s = 1, 4, 1, 3``."""
    found = smoothing_factors(np.array([2.0, 16, 2, 9]), np.array([2.0, 1, 2, 1]), 0.5)
    np.testing.assert_allclose(found, [1, 4, 1, 3])


def test_both_operands_share_the_difficulty_at_one_half() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.uniform(0.1, 9, 20), rng.uniform(0.1, 9, 20)
    factors = smoothing_factors(x, w, 0.5)
    np.testing.assert_allclose(x / factors, w * factors)
    np.testing.assert_allclose(x / smoothing_factors(x, w, 1.0), 1)
    np.testing.assert_allclose(w * smoothing_factors(x, w, 0.0), 1)


def test_channels_of_zeros_have_the_factor_1() -> None:
    np.testing.assert_array_equal(smoothing_factors(np.array([0.0, 3]), np.array([2.0, 0]), 0.5), [1, 1])


class TestSearch:
    @pytest.mark.parametrize("formats", [("int8r/tensor", "uint8/tensor"), ("int8r/channel", "int8r/token")])
    def test_the_error_falls_much_where_inputs_have_outliers(self, formats: tuple[str, str]) -> None:
        one = problem(0, size=128)
        found = search_smoothing(one.weight, one.inputs, scaled(formats[0]), scaled(formats[1]))
        assert 0.3 <= found.alpha <= 0.9
        assert found.error < found.plain_error / 4

    def test_the_error_is_the_layer_s(self) -> None:
        one = problem(0, size=64)
        found = search_smoothing(one.weight, one.inputs, scaled("int8r/channel"), scaled("int8r/tensor"))
        x, w = found.divided(one.inputs), found.scaled(one.weight)
        y = fake_quantize(x, "int8r/tensor") @ fake_quantize(w, "int8r/channel").T
        expected = np.square(y - one.inputs @ one.weight.T).sum(axis=1).mean()
        assert found.error == pytest.approx(expected, rel=1e-4)

    def test_a_sample_stands_for_as_many_as_it_is_said_to(self) -> None:
        one = problem(0, size=64)
        counts = np.arange(len(one.inputs)) % 3 + 1.0
        formats = scaled("int8r/channel"), scaled("int8r/tensor")
        found = search_smoothing(one.weight, one.inputs, *formats, counts=counts)
        repeated = search_smoothing(one.weight, np.repeat(one.inputs, counts.astype(int), axis=0), *formats)
        assert found.alpha == repeated.alpha
        assert found.error == pytest.approx(repeated.error, rel=1e-5)
        assert found.plain_error == pytest.approx(repeated.plain_error, rel=1e-5)

    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_never_worse_than_no_factors(self, seed: int) -> None:
        one = problem(seed, size=32, outliers=0)
        bad = search_smoothing(one.weight, one.inputs, scaled("int4r/channel"), scaled("int8r/token"), alphas=(1.0,))
        assert bad.error <= bad.plain_error
        assert (bad.error == bad.plain_error) == bool((bad.factors == 1).all())

    def test_the_function_is_preserved_when_a_norm_or_a_layer_divides(self) -> None:
        rng = np.random.default_rng(0)
        one = problem(0, size=64)
        found = search_smoothing(one.weight, one.inputs, scaled("int8r/channel"), scaled("int8r/tensor"))
        expected = one.inputs @ one.weight.T
        normal, gain, bias = rng.normal(size=(9, 64)), rng.normal(size=64), rng.normal(size=64)
        after = (normal * found.divided(gain) + found.divided(bias)) @ found.scaled(one.weight).T
        np.testing.assert_allclose(after, (normal * gain + bias) @ one.weight.T, atol=1e-4)
        first = Layer(rng.normal(size=(64, 5)), rng.normal(size=64))
        x = rng.normal(size=(9, 5))
        hidden = x @ found.divided(first.weight, axis=0).T + found.divided(first.bias)
        after = hidden @ found.scaled(one.weight).T
        np.testing.assert_allclose(after, (x @ first.weight.T + first.bias) @ one.weight.T, atol=1e-4)
        assert expected.dtype == found.scaled(one.weight).dtype == np.float32

    def test_shapes_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"\(3, 4\)"):
            search_smoothing(np.ones((3, 4)), np.ones((2, 5)), scaled("int8r/channel"), scaled("int8r/token"))
        formats = scaled("int8r/channel"), scaled("int8r/token")
        with pytest.raises(DataError, match="2 samples stand for"):
            search_smoothing(np.ones((3, 5)), np.ones((2, 5)), *formats, counts=np.ones(3))
        with pytest.raises(DataError, match="two peaks"):
            smoothing_factors(np.ones(3), np.ones(4), 0.5)
