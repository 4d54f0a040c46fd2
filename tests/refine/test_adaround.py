from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.numerics.reference import dequantize, fake_quantize
from fewbits.formats.numerics.scales import Scales, per_element, scales_of
from fewbits.formats.rounding import Rounding
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse
from fewbits.refine.adaround import adaround, adaround_relu
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.layer import Layer, as_matrices, linear_inputs
from refined_layers import Problem, problem

FORMATS = ("int3r/channel", "int4/tensor", "uint3/g16", "int4f2/g16/e8m0", "fp4_e2m1/g16", "nvfp4")


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def correlated(seed: int = 0, size: int = 48) -> Problem:
    return problem(seed, size, outputs=24, outliers=0)


def errors(one: Problem, values: NDArray[np.floating]) -> NDArray[np.float64]:
    return output_errors(values - one.weight, one.gram)


class TestLinear:
    @pytest.mark.parametrize("text", FORMATS)
    def test_every_weight_is_rounded_up_or_down_and_no_row_is_worse(self, text: str) -> None:
        one, format = correlated(), scaled(text)
        found = adaround(one.weight, one.gram, format, iterations=300)
        values, nearest = dequantize(found), fake_quantize(one.weight, format)
        assert (errors(one, values) <= errors(one, nearest) * (1 + 1e-5)).all()
        assert errors(one, values).sum() < 0.7 * errors(one, nearest).sum()
        scales = scales_of(one.weight, format)
        np.testing.assert_array_equal(found.scale, scales.scale)
        low = fake_quantize(one.weight, format, scales, Rounding.FLOOR)
        high = -fake_quantize(-one.weight, format, Scales(scales.scale, *_mirrored(scales, format)), Rounding.FLOOR)
        inside = (values >= low - 1e-6) & (values <= high + 1e-6)
        assert inside.all()

    def test_it_comes_near_the_best_of_all_roundings(self) -> None:
        """By brute force over the 2**10 roundings of each row."""
        rng = np.random.default_rng(0)
        weight, x = rng.normal(size=(6, 10)), rng.normal(size=(200, 10)) @ rng.normal(size=(10, 10))
        gram, format = Gram.of(x[None]), scaled("int4r/channel")
        scales = scales_of(weight, format)
        low = fake_quantize(weight, format, scales, Rounding.FLOOR)
        step = per_element(scales.scale, (1, 10), weight.shape)
        ups = np.array(list(product((0, 1), repeat=10)))
        best = []
        for row in range(6):
            choices = np.minimum(low[row] + ups * step[row], 7 * step[row, 0])
            best.append(output_errors(choices - weight[row], gram).min())
        found = output_errors(dequantize(adaround(weight, gram, format)) - weight, gram)
        nearest = output_errors(fake_quantize(weight, format) - weight, gram)
        assert (found >= np.array(best) * (1 - 1e-6)).all()
        assert found.sum() < 2 * np.sum(best)
        assert found.sum() < 0.65 * nearest.sum()

    def test_held_out_inputs_gain_as_well(self) -> None:
        one = correlated()
        found = dequantize(adaround(one.weight, one.gram, scaled("int3r/channel")))
        assert one.error(found) < 0.6 * one.error(fake_quantize(one.weight, scaled("int3r/channel")))

    def test_inputs_without_correlation_give_rounding_to_nearest(self) -> None:
        one = correlated()
        gram = Gram(np.diag(np.random.default_rng(0).uniform(1, 9, 48))[None], 100)
        found = dequantize(adaround(one.weight, gram, scaled("int4r/channel"), iterations=100))
        np.testing.assert_allclose(found, fake_quantize(one.weight, scaled("int4r/channel")), atol=1e-6)

    @pytest.mark.parametrize(("shape", "groups"), [((6, 4, 3, 3), 1), ((6, 1, 3, 3), 6), ((8, 3, 2), 4)])
    def test_convolutions_are_done_group_by_group(self, shape: tuple[int, ...], groups: int) -> None:
        rng = np.random.default_rng(0)
        weight, features = rng.normal(size=shape), int(np.prod(shape[1:]))
        x = rng.normal(size=(groups, 200, features)) @ rng.normal(size=(groups, features, features))
        format = scaled("int3r/channel")
        found = adaround(weight, Gram.of(x), format, iterations=200)
        assert found.shape == shape
        rows, values = as_matrices(weight, groups), as_matrices(dequantize(found), groups)
        alone = adaround(rows[-1], Gram.of(x[-1:]), format, iterations=200)
        np.testing.assert_array_equal(values[-1], dequantize(alone))

    def test_what_cannot_be_done_is_refused(self) -> None:
        one = correlated()
        with pytest.raises(DataError, match="NaN"):
            adaround(np.full((2, 48), np.nan), one.gram, scaled("int4r/channel"))
        with pytest.raises(DataError, match="48 features"):
            adaround(one.weight[:, :30], one.gram, scaled("int4r/channel"))
        with pytest.raises(FormatError, match="floor"):
            adaround(one.weight, one.gram, scaled("nf4/channel"))


class TestBehindReLU:
    def layer(self, one: Problem) -> Layer:
        return Layer(one.weight, np.random.default_rng(5).normal(size=24).astype(np.float32))

    def cut_errors(self, one: Problem, values: NDArray[np.floating]) -> NDArray[np.float64]:
        layer = self.layer(one)
        before, after = (np.maximum(one.inputs @ w.T + layer.bias, 0) for w in (layer.weight, values))
        return np.square(after - before).mean(axis=0)

    def test_no_row_is_worse_behind_the_relu(self) -> None:
        one, format = correlated(), scaled("int3r/channel")
        found = dequantize(adaround_relu(self.layer(one), linear_inputs(one.inputs), format, iterations=300))
        nearest = self.cut_errors(one, fake_quantize(one.weight, format))
        assert (self.cut_errors(one, found) <= nearest * (1 + 1e-5)).all()
        assert self.cut_errors(one, found).sum() < 0.7 * nearest.sum()

    def test_knowing_of_the_relu_helps(self) -> None:
        one, format = correlated(), scaled("int3r/channel")
        linear = dequantize(adaround(one.weight, one.gram, format))
        found = dequantize(adaround_relu(self.layer(one), linear_inputs(one.inputs), format))
        assert self.cut_errors(one, found).sum() < self.cut_errors(one, linear).sum()

    def test_batches_follow_from_the_seed(self) -> None:
        one, format = correlated(), scaled("int3r/channel")
        first, again, other = (
            adaround_relu(self.layer(one), linear_inputs(one.inputs), format, iterations=60, batch=32, seed=seed).codes
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_inputs_of_another_layer_are_refused(self) -> None:
        one = correlated()
        with pytest.raises(DataError, match=r"\(1, n, 48\)"):
            adaround_relu(self.layer(one), one.inputs[None, :, :30], scaled("int3r/channel"))


def _mirrored(scales: Scales[NDArray], format: ScaledFormat) -> tuple[NDArray, NDArray]:
    """Zero point and scale of the tensor with which ``-w`` has the codes of w in reverse."""
    element = format.element
    mirrored = element.qmax + element.qmin - scales.zero_point if format.asymmetric else scales.zero_point
    return mirrored, scales.tensor_scale
