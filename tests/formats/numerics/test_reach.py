"""Where a format's values end, by its codes and by rounding."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from fewbits.formats.floating import FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.reach import reach_of, tile_reach
from fewbits.formats.numerics.scales import scales_of
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse

ELEMENTS = (
    "bf16",
    "fp16",
    "fp8_e5m2",
    "fp8_e4m3",
    "fp8_e4m3fnuz",
    "fp6_e3m2",
    "fp6_e2m3",
    "fp4_e2m1",
    "int8f4",
    "int4f2",
)


@pytest.mark.parametrize(
    ("text", "smallest", "largest", "high"),
    [
        ("fp8_e4m3", 2.0**-9, 448.0, 464.0),
        ("fp8_e5m2", 2.0**-16, 57344.0, 61440.0),
        ("fp4_e2m1", 0.5, 6.0, 7.0),
        ("fp6_e2m3", 0.125, 7.5, 7.75),
        ("int8r", 1.0, 127.0, 127.5),
        ("int8r f4".replace(" ", ""), 0.0625, 7.9375, 7.96875),
        ("binary", 1.0, 1.0, 2.0),
        ("ternary", 1.0, 1.0, 1.5),
        ("codebook(-1,0,0.25,1)", 0.25, 1.0, 1.375),
    ],
)
def test_known_limits(text: str, smallest: float, largest: float, high: float) -> None:
    element = parse(text)
    assert not isinstance(element, ScaledFormat)
    reach = reach_of(element)
    assert (reach.smallest, reach.largest, reach.high) == (smallest, largest, high)


@pytest.mark.parametrize("text", ELEMENTS)
def test_rounding_ends_where_it_says(text: str) -> None:
    """Inside of the reach the error is half a step at most; outside of it there is no end to it."""
    element = parse(text)
    assert isinstance(element, IntFormat | FloatFormat)
    reach = reach_of(element)
    step = (reach.high - element.max) * 2
    inside, outside = np.float32(element.max + 0.499 * step), np.float32(element.max + 0.501 * step)
    assert inside < reach.high < outside
    assert fake_quantize(np.array([inside, outside, reach.smallest]), element).tolist() == [
        element.max,
        element.max,
        reach.smallest,
    ]


def test_limits_are_shifted_by_the_zero_point() -> None:
    x = np.array([[0.0, 1.0], [-1.0, 3.0]], np.float32)
    format = parse("uint8/channel")
    assert isinstance(format, ScaledFormat)
    reach = tile_reach(format, x.shape, scales_of(x, format))
    scale = np.array([[1.0], [4.0]]) / 255
    assert reach.tile == (1, 2)
    assert reach.low == pytest.approx(np.array([[0.0], [-1.0]]) - scale / 2, abs=0.01)
    assert reach.high == pytest.approx(np.array([[1.0], [3.0]]) + scale / 2, abs=0.01)
    assert reach.largest == pytest.approx(np.array([[1.0], [3.0]]), abs=0.02)
    assert reach.smallest == pytest.approx(scale)


def test_nested_scales_are_multiplied() -> None:
    x = np.linspace(-3, 3, 64, dtype=np.float32).reshape(2, 32)
    format = parse("nvfp4")
    assert isinstance(format, ScaledFormat)
    reach = tile_reach(format, x.shape, scales_of(x, format))
    assert reach.high.shape == (2, 2)
    assert (np.abs(x).reshape(2, 2, 16).max(-1) <= reach.high).all()
    assert reach.largest.max() == pytest.approx(3.0, rel=0.05)


def test_what_is_fitted_to_the_data_has_no_limits() -> None:
    reach = reach_of(parse("kmeans4"))  # type: ignore[arg-type]
    assert (reach.low, reach.high) == (-inf, inf)
    assert np.isnan(reach.largest)
