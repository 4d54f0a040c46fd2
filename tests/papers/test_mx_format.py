"""MX and NVFP4, against plain transcriptions of their definitions.

OCP Microscaling Formats v1.0, section 6.3; NVIDIA, arXiv 2506.08027 (RCEIL); Transformer Engine's documentation
(NVFP4).
"""

from __future__ import annotations

from math import floor, log2

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fewbits.formats.floating import E4M3, E5M2
from fewbits.formats.numerics.reference import dequantize, fake_quantize, quantize
from fewbits.formats.numerics.scales import per_element, scales_of
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse

Float32 = NDArray[np.float32]

# Name, the type of ml_dtypes, emax, largest value: table 1 and section 5.3 of OCP MX v1.0.
ELEMENTS = (
    ("mxfp8_e5m2", ml_dtypes.float8_e5m2, 15, 57344),
    ("mxfp8_e4m3", ml_dtypes.float8_e4m3fn, 8, 448),
    ("mxfp6_e3m2", ml_dtypes.float6_e3m2fn, 4, 28),
    ("mxfp6_e2m3", ml_dtypes.float6_e2m3fn, 2, 7.5),
    ("mxfp4", ml_dtypes.float4_e2m1fn, 2, 6),
)

# Large enough that no block's exponent falls below that of E8M0.
values = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda v: v == 0 or abs(v) > 2.0**-100)


def scaled(text: str) -> ScaledFormat:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    return format


def ocp(x: Float32, element: type, emax: int, largest: float) -> Float32:
    """Section 6.3 of OCP MX v1.0, a block at a time."""
    result = np.zeros_like(x)
    for start in range(0, x.size, 32):
        block = x[start : start + 32]
        if not block.any():
            continue
        scale = 2.0 ** (floor(log2(np.abs(block).max())) - emax)
        clamped = np.clip(block / scale, -largest, largest)
        result[start : start + 32] = clamped.astype(element).astype(np.float64) * scale
    return result


class TestMx:
    @pytest.mark.parametrize(("name", "element", "emax", "largest"), ELEMENTS, ids=[e[0] for e in ELEMENTS])
    @settings(max_examples=50)
    @given(x=st.lists(values, min_size=1, max_size=70))
    def test_floor_is_the_definition_of_ocp(
        self, name: str, element: type, emax: int, largest: float, x: list[float]
    ) -> None:
        found = fake_quantize(np.float32(x), scaled(name))
        np.testing.assert_array_equal(found, ocp(np.float32(x), element, emax, largest))

    def test_int8_is_a_fraction_of_six_bits(self) -> None:
        q = quantize(np.float32([1.0, 1.99, -1.99, 0.01]), scaled("mxint8"))
        assert q.scale == 1
        np.testing.assert_array_equal(q.codes, [64, 127, -127, 1])
        np.testing.assert_array_equal(dequantize(q), [1, 1.984375, -1.984375, 0.015625])

    def test_what_floor_clips_and_rceil_does_not(self) -> None:
        """Published: 0.86 % of N(0, 1) clipped, relative error 2.94e-2 against 2.65e-2 (E4M3)."""
        x = np.random.RandomState(0).standard_normal(1 << 20).astype(np.float32)
        clipped, error = {}, {}
        for rule in ("floor", "rceil"):
            format = scaled(f"mxfp8_e4m3-{rule}")
            scale = per_element(scales_of(x, format).scale, (32,), x.shape)
            clipped[rule] = np.mean(np.abs(x) > E4M3.max * scale)
            error[rule] = np.linalg.norm(fake_quantize(x, format) - x) / np.linalg.norm(x)
        # Clipped is what lies between 1.75 * 2**k and 2**(k + 1) in a block whose other 31 stay below 2**(k + 1).
        below = {end: 2 * stats.norm.cdf(end) - 1 for k in range(-20, 4) for end in (1.75 * 2.0**k, 2.0 ** (k + 1))}
        expected = sum((below[2 * 2.0**k] - below[1.75 * 2.0**k]) * below[2 * 2.0**k] ** 31 for k in range(-20, 4))
        assert expected == pytest.approx(0.0086, abs=0.00005)
        assert clipped["floor"] == pytest.approx(expected, abs=0.0005)
        assert clipped["rceil"] == 0
        assert error["floor"] == pytest.approx(2.94e-2, abs=0.01e-2)
        assert error["rceil"] == pytest.approx(2.65e-2, abs=0.01e-2)

    @given(x=st.lists(values, min_size=1, max_size=40), name=st.sampled_from([e[0] for e in ELEMENTS]))
    def test_rceil_is_never_finer_than_needed_nor_coarser(self, x: list[float], name: str) -> None:
        format = scaled(f"{name}-rceil")
        largest = {e[0]: e[3] for e in ELEMENTS}[name]
        for block, scale in zip([x[:32], x[32:]], scales_of(np.float32(x), format).scale, strict=False):
            if any(block):
                amax = max(map(abs, block))
                assert amax <= largest * float(scale) and amax > largest * float(scale) / 2

    def test_rows_and_columns_are_different_tensors(self) -> None:
        x = np.random.RandomState(0).standard_normal((64, 64)).astype(np.float32)
        rows, columns = fake_quantize(x, scaled("mxfp8_e4m3")), fake_quantize(x, scaled("mxfp8_e4m3/g32@0"))
        assert (rows != columns).any()
        np.testing.assert_array_equal(columns, fake_quantize(x.T, scaled("mxfp8_e4m3")).T)

    def test_requantising_rceil_keeps_values_and_changes_codes(self) -> None:
        """Blocks whose largest rounds to half of the largest element (Megatron-LM issue 6666)."""
        x = np.random.RandomState(0).standard_normal(1 << 15).astype(np.float32)
        once = quantize(x, scaled("mxfp8_e4m3-rceil"))
        twice = quantize(dequantize(once), scaled("mxfp8_e4m3-rceil"))
        np.testing.assert_array_equal(dequantize(twice), dequantize(once))
        halved = twice.scale != once.scale
        np.testing.assert_array_equal(twice.scale[halved] * 2, once.scale[halved])
        assert 0 < (twice.codes != once.codes).mean() < 0.1


def transformer_engine(x: Float32) -> Float32:
    """``x = e2m1 * s_block * s_global`` with ``s_global = amax / (448 * 6)``, ``s_block = (amax_b / 6) / s_global``."""
    amax = np.abs(x).max()
    s_global = np.float32(amax / np.float32(448 * 6))
    result = np.zeros_like(x)
    for start in range(0, x.size, 16):
        block = x[start : start + 16]
        s_block = np.minimum(np.abs(block).max() / np.float32(6) / s_global, np.float32(448))
        s_block = s_block.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        scale = np.maximum(s_block, np.float32(2.0**-9)) * s_global
        codes = np.clip(block / scale, -6, 6).astype(ml_dtypes.float4_e2m1fn)
        result[start : start + 16] = codes.astype(np.float32) * scale
    return result


class TestNvfp4:
    @given(x=st.lists(values, min_size=1, max_size=70).filter(any))
    def test_the_formula_of_transformer_engine(self, x: list[float]) -> None:
        np.testing.assert_array_equal(fake_quantize(np.float32(x), scaled("nvfp4")), transformer_engine(np.float32(x)))

    def test_gaussian_samples(self) -> None:
        x = np.random.RandomState(0).standard_normal(1 << 12).astype(np.float32)
        np.testing.assert_array_equal(fake_quantize(x, scaled("nvfp4")), transformer_engine(x))

    def test_block_scales_fit_in_e4m3(self) -> None:
        x = np.random.RandomState(0).standard_t(2, (40, 48)).astype(np.float32)
        q = quantize(x, scaled("nvfp4"))
        assert q.scale.shape == (40, 3)
        np.testing.assert_array_equal(q.scale.astype(ml_dtypes.float8_e4m3fn).astype(np.float32), q.scale)
        assert q.scale.max() == 448
        assert q.tensor_scale == np.abs(x).max() / np.float32(2688)

    def test_weights_in_square_tiles_are_the_same_transposed(self) -> None:
        x = np.random.RandomState(0).standard_normal((48, 80)).astype(np.float32)
        format = scaled("nvfp4/tile16x16")
        np.testing.assert_array_equal(fake_quantize(x.T, format), fake_quantize(x, format).T)


def test_ties_and_ends_of_the_elements() -> None:
    """Rounding comes first: E4M3 reaches 464 before it overflows, E5M2 61440."""
    assert (E4M3.max, E5M2.max) == (448, 57344)
    np.testing.assert_array_equal(fake_quantize(np.float32([463.9, 464, 465]), E4M3), [448, 448, 448])
