from __future__ import annotations

import numpy as np
import pytest

from fewbits.errors import FormatError
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.numerics.scales import Scales, scales_of
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse
from fewbits.refine.clipping import SHARES, clipped_scales
from fewbits.refine.gram import Gram, output_errors
from refined_layers import problem

FORMATS = (
    "int4r/channel",
    "int4r/tensor",
    "uint4/g32",
    "int3r/token",
    "uint3/g48",
    "fp4_e2m1/g32",
    "mxint8",
    "nf4/g64",
)


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


@pytest.mark.parametrize("text", FORMATS)
def test_no_row_is_worse_than_with_its_whole_range(text: str) -> None:
    one = problem(1, size=128)
    plain = output_errors(fake_quantize(one.weight, scaled(text)) - one.weight, one.gram)
    clipped = fake_quantize(one.weight, scaled(text), clipped_scales(one.weight, one.gram, scaled(text)))
    found = output_errors(clipped - one.weight, one.gram)
    if "tensor" in text:
        assert found.sum() <= plain.sum()
    else:
        assert (found <= plain * (1 + 1e-6)).all()


@pytest.mark.parametrize("text", ["int3r/channel", "uint3/channel"])
def test_it_is_the_best_share_of_each_output(text: str) -> None:
    one = problem(1, size=64)
    format, exact = scaled(text), one.weight.astype(np.float64)
    own = scales_of(one.weight, format)
    errors = [
        output_errors(
            fake_quantize(exact, format, Scales(own.scale * np.float32(share), own.zero_point, own.tensor_scale))
            - exact,
            one.gram,
        )
        for share in SHARES
    ]
    found = output_errors(fake_quantize(exact, format, clipped_scales(one.weight, one.gram, format)) - exact, one.gram)
    np.testing.assert_allclose(found, np.min(errors, axis=0), rtol=1e-4)
    assert found.sum() < 0.9 * errors[0].sum()


def test_convolutions_are_clipped_by_output() -> None:
    rng = np.random.default_rng(0)
    weight, x = rng.standard_t(3, size=(6, 1, 3, 3)), rng.normal(size=(6, 100, 9))
    scales = clipped_scales(weight, Gram.of(x), scaled("int3r/channel"))
    assert scales.scale.shape == (6, 1, 1, 1)
    assert (scales.scale < scales_of(weight, scaled("int3r/channel")).scale).any()


def test_scales_that_do_not_come_from_a_range_are_refused() -> None:
    one = problem(1, size=64)
    for text, message in (("nvfp4", "nvfp4"), ("kmeans4/channel", "kmeans4"), ("int4r/g32@0", "g32@0")):
        with pytest.raises(FormatError, match=message):
            clipped_scales(one.weight, one.gram, scaled(text))
