"""The compiled casts give the bits of the composition in numpy, whatever the format, the shape and the threads."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from fewbits.formats.kernels import cpu
from fewbits.formats.kernels.cpu_noise import fill_noise, stream_of
from fewbits.formats.numerics import reference
from fewbits.formats.numerics.philox import noise
from fewbits.formats.numerics.scales import Scales, scales_of
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import parse

KEY = NoiseKey(2**63 + 987654321, step=3, tensor=0xDEADBEEF)
EVEN, STOCHASTIC = Rounding.NEAREST_EVEN, Rounding.STOCHASTIC
SATURATE, NONSATURATE = Overflow.SATURATE, Overflow.NONSATURATE
CASTS = [
    "fp8_e4m3",
    "fp8_e5m2",
    "bf16",
    "fp16",
    "tf32",
    "fp32",
    "fp8_e4m3fnuz",
    "fp6_e2m3",
    "fp4_e2m1",
    "ue4m3",
    "int8f6",
]
SCALED = [
    "int8r/channel",
    "int8/tensor",
    "uint8/tensor/sym",
    "int4r/g32",
    "int8/channel@1",
    "int16/token",
    "int8r/tile2x3",
    "fp8_e4m3/tensor",
    "mxfp8_e4m3",
    "mxfp8_e5m2-ceil",
    "mxfp6_e3m2-even",
    "mxfp4-rceil",
    "mxint8",
    "bfp8/tile24x24",
    "bfp5-rceil/g20",
]


def hostile(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Every exponent, ties of short mantissas, subnormals, signed zeros, Inf and NaN."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
    ties = patterns & np.uint32(0xFFF80000)
    usual = rng.standard_normal(shape).astype(np.float32) * np.ldexp(np.float32(1), rng.integers(-16, 9, shape))
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38], np.float32).view(np.uint32)
    drawn = special[rng.integers(0, special.size, shape)]
    kinds = [patterns, ties, usual.view(np.uint32), usual.view(np.uint32)]
    return np.where(rng.random(shape) < 0.05, drawn, np.choose(rng.integers(0, 4, shape), kinds)).view(np.float32)


def ordinary(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compiled(x, text, rounding=EVEN, overflow=SATURATE, scales=None, threads=2):
    out = np.full_like(x, 7)
    key = KEY if rounding is STOCHASTIC else None
    cpu.fake_quantize(x, out, parse(text), scales, rounding, overflow, key, threads)
    return out


def expected(x, text, rounding=EVEN, overflow=SATURATE, scales=None):
    key = KEY if rounding is STOCHASTIC else None
    return reference.fake_quantize(x, parse(text), scales, rounding, overflow, key)


def assert_same_bits(actual, wanted):
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(wanted))
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(actual[numbers].view(np.uint32), wanted[numbers].view(np.uint32))


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("text", CASTS)
def test_casts_equal_numpy(text, rounding):
    x = hostile((3, 1777))
    assert_same_bits(compiled(x, text, rounding), expected(x, text, rounding))


@pytest.mark.parametrize("rounding", [EVEN, STOCHASTIC])
@pytest.mark.parametrize("text", ["fp8_e4m3", "fp8_e5m2", "fp8_e4m3fnuz", "ue4m3", "ue5m2"])
def test_casts_that_do_not_saturate_equal_numpy(text, rounding):
    x = hostile((5000,))
    assert_same_bits(compiled(x, text, rounding, NONSATURATE), expected(x, text, rounding, NONSATURATE))


@pytest.mark.parametrize("text", ["fp8_e4m3", "bf16"])
def test_flushed_subnormals_equal_numpy(text):
    flushing = {"fp8_e4m3": "e4m3fnftz", "bf16": "e8m7ftz"}[text]
    x = hostile((5000,))
    assert_same_bits(compiled(x, flushing), expected(x, flushing))


@pytest.mark.parametrize("rounding", [EVEN, Rounding.FLOOR, STOCHASTIC])
@pytest.mark.parametrize("text", SCALED)
def test_scaled_formats_equal_numpy(text, rounding):
    for x in (ordinary((50, 70)), hostile((50, 70)), hostile((2, 3, 4100))):
        assert_same_bits(compiled(x, text, rounding), expected(x, text, rounding))


@pytest.mark.parametrize("text", ["nvfp4", "nvfp4/tile16x16", "uint8/tensor", "int8/channel/asym", "uint4/g32"])
def test_nested_and_asymmetric_formats_equal_numpy(text):
    for rounding in (EVEN, STOCHASTIC):
        for x in (ordinary((50, 70)), hostile((50, 70))):
            assert_same_bits(compiled(x, text, rounding), expected(x, text, rounding))


@pytest.mark.parametrize("text", ["fp8_e4m3/channel", "int8/g32", "mxfp4"])
def test_given_scales_equal_numpy(text):
    x = ordinary((40, 64))
    own = scales_of(x, parse(text))
    halved = Scales(own.scale / np.float32(2), own.zero_point, own.tensor_scale)
    assert_same_bits(compiled(x, text, scales=halved), expected(x, text, scales=halved))


@pytest.mark.parametrize("text", ["mxfp8_e4m3-ceil", "bfp8-ceil/g8", "mxfp4-rceil"])
def test_scales_that_would_make_elements_infinite_equal_numpy(text):
    x = ordinary((6, 64))
    x[::2] *= np.float32(1.2e38) / np.abs(x[::2]).max() * np.float32(2.8)
    wanted = expected(x, text)
    assert np.isfinite(wanted).all()
    assert_same_bits(compiled(x, text), wanted)
    in_place = x.copy()
    cpu.fake_quantize(in_place, in_place, parse(text))
    assert_same_bits(in_place, wanted)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["fp8_e4m3", *SCALED]),
    st.sampled_from([EVEN, STOCHASTIC]),
    st.one_of(
        st.tuples(st.integers(1, 90), st.integers(1, 200)),
        st.tuples(st.integers(1, 6), st.integers(1, 40), st.integers(1, 70)),
    ),
    st.integers(1, 3),
    st.integers(0, 1 << 30),
)
def test_any_shape_and_any_number_of_threads_give_the_same_bits(text, rounding, shape, threads, seed):
    if not cpu.handles(parse(text), shape):
        return
    x = hostile(shape, seed)
    assert_same_bits(compiled(x, text, rounding, threads=threads), expected(x, text, rounding))


@pytest.mark.parametrize(
    "text", ["fp8_e4m3", "int8r/channel", "int8/channel@1", "fp8_e4m3/tensor", "mxfp8_e4m3", "bfp8/tile24x24"]
)
@pytest.mark.parametrize("shape", [(600, 500), (2, 150_001), (150_001, 2)])
def test_arrays_that_are_shared_out_to_threads_equal_numpy(text, shape):
    x = ordinary(shape)
    wanted = expected(x, text, STOCHASTIC)
    for threads in (1, 2, 5):
        assert_same_bits(compiled(x, text, STOCHASTIC, threads=threads), wanted)


def test_out_may_be_the_input():
    for text in ("fp8_e4m3", "int8r/channel", "mxfp8_e4m3", "fp8_e4m3/tensor"):
        x = ordinary((300, 320))
        wanted = expected(x, text)
        cpu.fake_quantize(x, x, parse(text))
        assert_same_bits(x, wanted)


@pytest.mark.parametrize("text", ["fp8_e4m3", "int8r/channel@1", "mxfp8_e4m3", "bfp8/tile24x24", "uint8/tensor"])
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_results_that_are_streamed_past_the_caches_equal_numpy(text, offset):
    # Large results and those in place are written in whole lines of 64 bytes, wherever they begin.
    for shape in ((3, 1777), (70, 9001), (9001, 70)):
        x = ordinary(shape, seed=offset)
        memory = np.zeros(x.size + 64, np.float32)
        inside = memory[offset : offset + x.size].reshape(shape)
        inside[...] = x
        key = KEY if text != "uint8/tensor" else None
        rounding = STOCHASTIC if key else EVEN
        cpu.fake_quantize(inside, inside, parse(text), None, rounding, SATURATE, key, 2)
        assert_same_bits(inside, expected(x, text, rounding))
        assert not memory[:offset].any() and not memory[offset + x.size :].any()


def test_large_results_equal_numpy():
    x = ordinary((1, 3, 800_011))
    out = np.full_like(x, 7)
    for text in ("fp8_e4m3", "int8r/g48"):
        cpu.fake_quantize(x, out, parse(text))
        assert_same_bits(out, expected(x, text))


def test_noise_of_the_kernel_is_the_noise_of_the_contract():
    words = np.zeros((40, 4, 16), np.uint32)
    for block in (0, (1 << 28) - 20, 1 << 40):
        fill_noise(words, block, 40, stream_of(KEY))
        np.testing.assert_array_equal(words.reshape(-1), noise(KEY, 40 * 64, block * 64))


@pytest.mark.parametrize("text", ["int8r/tensor", "int8r/channel", "int8r/channel@1", "int8r/g32", "int8r/tile7x11"])
@pytest.mark.parametrize("shape", [(33, 70), (3, 70_001), (1, 1)])
def test_largest_magnitudes_of_tiles(text, shape):
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    x = hostile(shape)
    tile = format.granularity.tile(shape)
    finite = np.where(np.isfinite(x), np.abs(x), 0)
    rows = np.maximum.reduceat(finite, np.arange(0, shape[0], tile[0]), axis=0)
    wanted = np.maximum.reduceat(rows, np.arange(0, shape[1], tile[1]), axis=1)
    for threads in (1, 3):
        np.testing.assert_array_equal(cpu.tile_amax(x, format, threads), wanted)


def test_handles_says_what_is_left_to_numpy():
    assert cpu.handles(parse("fp8_e4m3"), (3,)) and cpu.handles(parse("bfp8/tile24x24"), (5, 6, 7))
    for text in ("binary/channel", "ternary/channel", "nf4/g64", "kmeans4/channel", "e8m0"):
        assert not cpu.handles(parse(text), (4, 64))
    assert not cpu.handles(parse("fp8_e4m3"), (0, 3))
    assert not cpu.handles(parse("int8/g4@1"), (2, 8, 3, 8)) or cpu.handles(parse("int8/g4@1"), (2, 8, 24))


@pytest.mark.parametrize("text", ["fp8_e4m3/token/pow2-rceil", "mxfp8_e4m3-rceil", "int8r/token", "nvfp4", "int4r/g32"])
@pytest.mark.parametrize("columns", [16, 32, 48, 64, 96, 128, 1000])
def test_narrow_rows(text: str, columns: int) -> None:
    x = hostile((1301, columns), columns)
    np.testing.assert_array_equal(compiled(x, text).view(np.uint32), expected(x, text).view(np.uint32))


@pytest.mark.parametrize("text", ["fp8_e4m3/tensor", "int8r/tensor", "mxfp8_e4m3/tensor", "bfp8"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("ends", [1.0, 3e38, 1e-44])
def test_one_scale_that_several_threads_find(text: str, in_place: bool, ends: float) -> None:
    x = ordinary((400, 700)) * np.float32(ends / 8)
    out = x.copy() if in_place else np.empty_like(x)
    cpu.fake_quantize(out if in_place else x, out, parse(text), threads=2)
    np.testing.assert_array_equal(out.view(np.uint32), expected(x, text).view(np.uint32))


@pytest.mark.parametrize("scale", [2.0**-126, 2.0**-149, 2.0**-3, 1.0, 2.0**12, 2.0**126, 2.0**127, 3.0])
@pytest.mark.parametrize("text", ["fp16/tensor", "fp8_e5m2/tensor", "int8/tensor"])
def test_one_scale_that_is_given(text: str, scale: float) -> None:
    format, x = parse(text), hostile((300, 301))
    assert isinstance(format, ScaledFormat)
    given_scales = Scales(np.full((1, 1), scale, np.float32), np.zeros((1, 1), np.int32), np.ones((), np.float32))
    overflows = (SATURATE,) if "int" in text else (SATURATE, NONSATURATE)
    for rounding, overflow in product((EVEN, STOCHASTIC), overflows):
        ours = compiled(x, text, rounding, overflow, given_scales)
        wanted = expected(x, text, rounding, overflow, given_scales)
        np.testing.assert_array_equal(ours.view(np.uint32), wanted.view(np.uint32))
