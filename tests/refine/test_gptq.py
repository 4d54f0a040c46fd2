from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fewbits.errors import DataError, FormatError
from fewbits.formats.numerics import reference
from fewbits.formats.numerics.reference import dequantize, fake_quantize
from fewbits.formats.numerics.scales import Scales, per_element, scales_of
from fewbits.formats.qtensor import QTensor
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse
from fewbits.refine.gptq import gptq
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.layer import as_matrices
from refined_layers import problem

Float = NDArray[np.float64]

FORMATS = ("int4r/channel", "int3/tensor", "uint4/g32", "int2r/g64", "uint3/channel", "fp4_e2m1/g32", "mxfp4", "nvfp4")


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def small(seed: int = 0, outputs: int = 12, features: int = 40, samples: int = 100) -> tuple[Float, Float]:
    """A weight and inputs that hang together."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(outputs, features)), rng.normal(size=(samples, features)) @ rng.normal(
        size=(features, features)
    )


def column_by_column(weight: Float, moments: Float, order: NDArray[np.intp], steps: Float, top: int) -> Float:
    """Optimal brain quantisation in a given order (Frantar & Alistarh, arXiv 2208.11580, equations 7 and 8).

    After each column the inverse of the moments is reduced by Gaussian elimination. Symmetric integers up to `top`.
    """
    work, inverse = weight.copy(), np.linalg.inv(moments)
    result = np.zeros_like(weight)
    for place in order:
        result[:, place] = np.clip(np.rint(work[:, place] / steps[:, place]), -top, top) * steps[:, place]
        error = (work[:, place] - result[:, place]) / inverse[place, place]
        work -= np.outer(error, inverse[place])
        inverse = inverse - np.outer(inverse[:, place], inverse[place]) / inverse[place, place]
    return result


def codes_equal(one: QTensor[NDArray[np.generic]], other: QTensor[NDArray[np.generic]]) -> None:
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.scale, other.scale)
    np.testing.assert_array_equal(one.zero_point, other.zero_point)


class TestTheAlgorithm:
    @pytest.mark.parametrize("act_order", [False, True])
    @pytest.mark.parametrize("seed", range(3))
    def test_is_column_by_column_elimination(self, act_order: bool, seed: int) -> None:
        weight, x = small(seed)
        gram, format = Gram.of(x[None]), scaled("int4r/channel")
        moments = gram.total[0] + 0.01 * gram.total[0].diagonal().mean() * np.eye(40)
        order = np.argsort(-gram.total[0].diagonal(), kind="stable") if act_order else np.arange(40)
        steps = per_element(scales_of(weight, format).scale.astype(np.float64), (1, 40), weight.shape)
        expected = column_by_column(weight, moments, order, steps, top=7)
        nearest = fake_quantize(weight, format)
        worse = output_errors(expected - weight, gram) >= output_errors(nearest - weight, gram)
        expected[worse] = nearest[worse]
        assert worse.mean() < 0.2
        np.testing.assert_allclose(dequantize(gptq(weight, gram, format, act_order=act_order)), expected, rtol=1e-6)

    @pytest.mark.parametrize("text", FORMATS)
    @pytest.mark.parametrize("act_order", [False, True])
    def test_the_size_of_a_block_does_not_matter(self, text: str, act_order: bool) -> None:
        weight, x = small(features=96)
        gram = Gram.of(x[None])
        whole = gptq(weight, gram, scaled(text), act_order=act_order, block=96)
        for block in (1, 20, 32):
            codes_equal(gptq(weight, gram, scaled(text), act_order=act_order, block=block), whole)

    def test_the_order_by_activations_is_undone(self) -> None:
        """Inputs that stand in another order give the same weight in that order."""
        weight, x = small()
        mixed = np.random.default_rng(1).permutation(40)
        plain = dequantize(gptq(weight, Gram.of(x[None]), scaled("int4r/channel")))
        other = dequantize(gptq(weight[:, mixed], Gram.of(x[None][..., mixed]), scaled("int4r/channel")))
        np.testing.assert_array_equal(other, plain[:, mixed])

    def test_inputs_without_correlation_give_rounding_to_nearest(self) -> None:
        weight, _ = small()
        gram = Gram(np.diag(np.random.default_rng(0).uniform(1, 9, 40))[None], 100)
        codes_equal(gptq(weight, gram, scaled("int4r/channel")), reference.quantize(weight, scaled("int4r/channel")))

    def test_the_number_of_inputs_does_not_matter(self) -> None:
        weight, x = small()
        twice = Gram.of(np.concatenate([x, x])[None])
        codes_equal(gptq(weight, twice, scaled("uint4/g8")), gptq(weight, Gram.of(x[None]), scaled("uint4/g8")))


class TestItsOutputs:
    @pytest.mark.parametrize("text", FORMATS)
    @pytest.mark.parametrize("act_order", [False, True])
    def test_no_row_is_worse_than_rounding_to_nearest(self, text: str, act_order: bool) -> None:
        one = problem(0, size=128)
        nearest = output_errors(fake_quantize(one.weight, scaled(text)) - one.weight, one.gram)
        found = output_errors(
            dequantize(gptq(one.weight, one.gram, scaled(text), act_order=act_order)) - one.weight, one.gram
        )
        assert (found <= nearest * (1 + 1e-6)).all()
        assert found.sum() < 0.9 * nearest.sum()

    def test_codes_are_those_of_the_format(self) -> None:
        one = problem(0, size=128)
        for text in ("uint4/g32", "int4r/channel"):
            found = gptq(one.weight, one.gram, scaled(text))
            again = reference.quantize(
                dequantize(found), scaled(text), Scales(found.scale, found.zero_point, found.tensor_scale)
            )
            codes_equal(again, found)
            assert found.dtype == "float32"

    def test_scales_that_wait_for_updates_fit_the_updated_groups(self) -> None:
        """In the natural order the scales of later groups are not those of the weight; the first group's are."""
        weight, x = small(features=64)
        found = gptq(weight, Gram.of(x[None]), scaled("int4r/g16"), act_order=False)
        own = scales_of(weight, scaled("int4r/g16")).scale
        np.testing.assert_array_equal(found.scale[:, 0], own[:, 0])
        assert (found.scale[:, 1:] != own[:, 1:]).mean() > 0.5
        given = gptq(
            weight,
            Gram.of(x[None]),
            scaled("int4r/g16"),
            act_order=False,
            scales=scales_of(weight, scaled("int4r/g16")),
        )
        np.testing.assert_array_equal(given.scale, own)

    def test_given_scales_are_kept(self) -> None:
        weight, x = small()
        scales = Scales(np.full((12, 1), 0.5, np.float32), np.zeros((12, 1), np.int32), np.ones((), np.float32))
        assert (gptq(weight, Gram.of(x[None]), scaled("int4r/channel"), scales=scales).scale == 0.5).all()


class TestConvolutions:
    @pytest.mark.parametrize(("shape", "groups"), [((6, 4, 3, 3), 1), ((6, 1, 3, 3), 6), ((8, 3, 2), 4)])
    def test_every_group_is_done_with_its_own_inputs(self, shape: tuple[int, ...], groups: int) -> None:
        rng = np.random.default_rng(0)
        weight, features = rng.normal(size=shape), int(np.prod(shape[1:]))
        x = rng.normal(size=(groups, 200, features)) @ rng.normal(size=(groups, features, features))
        found = gptq(weight, Gram.of(x), scaled("int3r/channel"))
        assert found.shape == shape
        rows, values = as_matrices(weight, groups), as_matrices(dequantize(found), groups)
        for group in range(groups):
            alone = gptq(rows[group], Gram.of(x[group][None]), scaled("int3r/channel"))
            np.testing.assert_array_equal(values[group], dequantize(alone))


class TestHardInputs:
    def test_columns_whose_input_is_zero_are_rounded_to_nearest(self) -> None:
        weight, x = small()
        x[:, [3, 17]] = 0
        found = dequantize(gptq(weight, Gram.of(x[None]), scaled("int4r/channel")))
        np.testing.assert_array_equal(found[:, [3, 17]], fake_quantize(weight, scaled("int4r/channel"))[:, [3, 17]])

    def test_no_inputs_at_all_is_rounding_to_nearest(self) -> None:
        weight, _ = small()
        codes_equal(
            gptq(weight, Gram.empty(40), scaled("int4r/channel")), reference.quantize(weight, scaled("int4r/channel"))
        )

    def test_fewer_inputs_than_features_need_damping(self) -> None:
        weight, x = small(samples=10)
        gram = Gram.of(x[None])
        gptq(weight, gram, scaled("int4r/channel"))
        with pytest.raises(DataError, match="more damping"):
            gptq(weight, gram, scaled("int4r/channel"), damping=-1e-9)

    def test_what_cannot_be_done_is_refused(self) -> None:
        weight, x = small()
        gram = Gram.of(x[None])
        with pytest.raises(DataError, match="NaN"):
            gptq(np.full((2, 40), np.nan), gram, scaled("int4r/channel"))
        with pytest.raises(DataError, match="40 features"):
            gptq(weight[:, :30], gram, scaled("int4r/channel"))
        with pytest.raises(FormatError, match="k-means"):
            gptq(weight, gram, scaled("kmeans4/channel"))
