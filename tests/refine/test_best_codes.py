"""The best of several ways to find codes, on the specification's synthetic layer."""

from __future__ import annotations

import numpy as np
import pytest

from fewbits.errors import DataError
from fewbits.formats.quantize import dequantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse
from fewbits.refine.best_codes import ALL, Way, best_codes, judged, learnt_codes
from fewbits.refine.gram import Gram, output_errors
from refined_layers import problem


def format(text: str) -> ScaledFormat:
    found = parse(text)
    assert isinstance(found, ScaledFormat)
    return found


@pytest.mark.parametrize("text", ["int4r/g32", "uint4/g32", "uint4/g128", "int4r/channel"])
def test_codes_that_were_found_are_better_on_inputs_that_none_of_them_saw(text: str) -> None:
    one = problem(0)
    found = best_codes(one.weight, one.gram, Gram.of(one.held[None]), format(text))
    assert found.by != Way.NEAREST
    assert found.error < 0.8 * found.plain_error
    assert found.codes.format == format(text)
    assert found.codes.shape == one.weight.shape


def test_the_errors_are_those_of_the_inputs_apart() -> None:
    one = problem(1)
    apart = Gram.of(one.held[None])
    found = best_codes(one.weight, one.gram, apart, format("int4r/g32"))
    assert found.error == pytest.approx(output_errors(dequantize(found.codes) - one.weight, apart).sum())


def test_what_was_fitted_to_other_inputs_is_not_taken() -> None:
    """The inputs that codes are fitted to go together where those apart go against each other."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    common = rng.standard_normal((256, 1))
    sign = np.where(np.arange(64) % 2, 1.0, -1.0)
    fitted = Gram.of((common + 0.01 * rng.standard_normal((256, 64)))[None])
    apart = Gram.of((common * sign + 0.01 * rng.standard_normal((256, 64)))[None])
    assert best_codes(weight, fitted, fitted, format("int4r/g32")).by != Way.NEAREST
    found = best_codes(weight, fitted, apart, format("int4r/g32"))
    assert found.error <= found.plain_error


def test_a_weight_on_the_grid_stays() -> None:
    weight = np.tile(np.arange(-7, 8, dtype=np.float32), 32).reshape(8, -1)[:, :32]
    gram = Gram.of(np.random.default_rng(0).standard_normal((1, 64, 32)))
    weight[:, 0] = 7
    found = best_codes(weight, gram, gram, format("int4r/g32"))
    assert (found.by, found.error, found.plain_error) == (Way.NEAREST, 0, 0)
    assert np.array_equal(dequantize(found.codes), weight)


def test_a_weight_that_is_not_finite_is_refused() -> None:
    gram = Gram.of(np.ones((1, 4, 32)))
    with pytest.raises(DataError, match="NaN"):
        best_codes(np.full((2, 32), np.nan, np.float32), gram, gram, format("int4r/channel"))


def test_only_the_ways_that_are_wanted_are_tried() -> None:
    one = problem(0)
    apart = Gram.of(one.held[None])
    for ways in ({Way.CLIPPED}, {Way.HQQ}, {Way.GPTQ, Way.GPTQ_HQQ}):
        assert best_codes(one.weight, one.gram, apart, format("uint4/g64"), ways).by in ways | {Way.NEAREST}
    assert best_codes(one.weight, one.gram, apart, format("uint4/g64"), ()).by is Way.NEAREST
    # HQQ moves zero points; without them there is nothing to try.
    assert best_codes(one.weight, one.gram, apart, format("int4r/g64"), {Way.HQQ}).by is Way.NEAREST


def test_more_ways_are_never_worse() -> None:
    one = problem(2)
    apart = Gram.of(one.held[None])
    errors = [
        best_codes(one.weight, one.gram, apart, format("uint4/g128"), ways).error
        for ways in ((), {Way.CLIPPED}, {Way.CLIPPED, Way.GPTQ, Way.GPTQ_CLIPPED}, ALL)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[1] < errors[0]


def test_learnt_codes_are_closer_than_nearest_ones_or_stay() -> None:
    """Fitted to more inputs than features, as they are in a run."""
    one = problem(1, size=64, outputs=32)
    apart = Gram.of(one.held[None])
    nearest = judged(one.weight, apart, format("int4r/g32"), None)
    found = learnt_codes(one.weight, one.gram, apart, nearest)
    assert found.by is Way.ADAROUND
    assert found.error < nearest.error
    assert np.array_equal(found.codes.scale, nearest.codes.scale)
    assert found.error == pytest.approx(output_errors(dequantize(found.codes) - one.weight, apart).sum())
    solved = best_codes(one.weight, one.gram, apart, format("int4r/g32"), {Way.GPTQ})
    assert learnt_codes(one.weight, one.gram, apart, solved, iterations=1) is solved
