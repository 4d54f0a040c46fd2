"""Casts against ml_dtypes, gfloat, torch, ONNX Runtime: the same bits, but for the rows of docs/formats-oracles.md.

Each row has a test under "Known disagreements", which asserts what the oracle does: a change of the oracle is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf, isinf, isnan, nan, nextafter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch
from gfloat import RoundMode, decode_float, encode_float, round_float, round_ndarray
from gfloat.formats import format_info_ocp_e4m3, format_info_ocp_e8m0, format_info_ocp_int8
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fewbits.formats.floating import E4M3, E8M0, FloatFormat
from fewbits.formats.grid import Grid
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.array import decode_array, encode_array, round_array
from fewbits.formats.numerics.scalar import decode, encode, round_value
from fewbits.formats.rounding import Overflow, Rounding
from oracles import (
    GFLOAT_MODES,
    SMALL,
    TORCH,
    WIDE,
    assert_same,
    float_formats,
    gfloat_info,
    neighbourhoods,
    random_patterns,
    same,
)

NEAREST = Rounding.NEAREST_EVEN
SATURATE, NONSATURATE = Overflow.SATURATE, Overflow.NONSATURATE
PAGE = Path(__file__).parents[3] / "docs" / "formats-oracles.md"
MX_INT8 = IntFormat(8, signed=True, fraction=6)

ONNX = {
    "fp8_e4m3": TensorProto.FLOAT8E4M3FN,
    "fp8_e5m2": TensorProto.FLOAT8E5M2,
    "fp8_e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "fp8_e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
}

ALL_16_BITS = {
    "bf16": np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32),
    "fp16": np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32),
}


def overflow_of_ml_dtypes(format: FloatFormat) -> Overflow:
    """ml_dtypes saturates where there is neither Inf nor NaN, and nowhere else."""
    return NONSATURATE if format.has_nan else SATURATE


def overflow_of_torch(text: str) -> Overflow:
    """torch 2.12 and later saturate E4M3 and nothing else."""
    return SATURATE if text == "fp8_e4m3" else NONSATURATE


def agreed(x: NDArray[np.float32], format: FloatFormat) -> NDArray[np.float32]:
    """Those of `x` about which we agree with ml_dtypes and torch: see `Known disagreements`."""
    if not format.has_nan:
        return x[~np.isnan(x)]
    if format == E8M0:
        is_tie = (x.view(np.uint32) & 0x7FFFFF) == 0x400000
        is_just_above_the_least = (x > E8M0.min_normal) & (x <= 1.5 * E8M0.min_normal)
        return x[~(x <= 0) & ~is_tie & ~is_just_above_the_least]
    return x


def cast(x: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """`x` as ml_dtypes or numpy cast it."""
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def overflows_in_gfloat(rounding: Rounding, y: float, grid: Grid) -> bool:
    """Whether gfloat, not told to saturate, overflows to Inf or NaN where we do: see `Known disagreements`."""
    stays_finite = rounding is Rounding.TOWARD_ZERO or (rounding is Rounding.FLOOR and y > 0)
    return not stays_finite or isinf(y) or grid.low <= y <= grid.high


def assert_scalar_is_gfloat(
    format: FloatFormat, inputs: Iterable[float], modes: Iterable[Rounding] = Rounding, noise: int = 0x9E3779B9
) -> None:
    """Both overflows, every mode; formats whose input gfloat can take."""
    info, grid = gfloat_info(format), format.grid
    for y in inputs:
        if isnan(y) and not format.has_nan:
            continue
        for overflow in Overflow if format.has_nan else (SATURATE,):
            for rounding in modes:
                if overflow is NONSATURATE and not overflows_in_gfloat(rounding, y, grid):
                    continue
                theirs = round_float(info, y, GFLOAT_MODES[rounding], overflow is SATURATE, noise >> 8, 24)
                ours = round_value(y, grid, rounding, overflow, noise)
                assert same(ours, theirs), (str(format), y, rounding, overflow, ours, theirs)


# Every code


@pytest.mark.parametrize("text", SMALL)
def test_every_code_means_what_ml_dtypes_and_gfloat_say(text: str) -> None:
    format = FloatFormat.parse(text)
    codes = np.arange(1 << format.bits, dtype=np.uint8)
    theirs = codes.view(SMALL[text]).astype(np.float32).tolist()
    info = gfloat_info(format)
    for code in codes.tolist():
        assert same(decode(code, format), theirs[code])
        assert same(decode(code, format), decode_float(info, code).fval)
        if not isnan(theirs[code]):
            assert encode(theirs[code], format) == encode_float(info, theirs[code]) == code
    assert_same(decode_array(codes, format), np.array(theirs, np.float32), codes)


@pytest.mark.parametrize("text", TORCH)
def test_every_code_means_what_torch_says(text: str) -> None:
    format = FloatFormat.parse(text)
    theirs = torch.arange(256, dtype=torch.uint8).view(TORCH[text]).float().tolist()
    assert all(same(decode(code, format), theirs[code]) for code in range(256))


@pytest.mark.parametrize("text", WIDE)
def test_every_16_bit_code_means_what_ml_dtypes_and_numpy_say(text: str) -> None:
    format, codes = FloatFormat.parse(text), np.arange(1 << 16, dtype=np.uint16)
    values = ALL_16_BITS[text]
    assert_same(decode_array(codes, format), values, codes)
    numbers = ~np.isnan(values)
    assert np.array_equal(encode_array(values, format)[numbers], codes[numbers])
    for code in range(0, 1 << 16, 7):
        assert same(decode(code, format), float(values[code]))
        assert isnan(values[code]) or encode(float(values[code]), format) == code


@given(float_formats(12, signed=True), st.data())
def test_codes_of_any_format_mean_what_gfloat_says(format: FloatFormat, data: st.DataObject) -> None:
    code = data.draw(st.integers(0, (1 << format.bits) - 1))
    assert same(decode(code, format), decode_float(gfloat_info(format), code).fval)


def test_every_code_of_the_integers_of_mx_means_what_gfloat_says() -> None:
    for code in range(-128, 128):
        assert decode(code, MX_INT8) == decode_float(format_info_ocp_int8, code & 0xFF).fval


# Rounding of one number


@pytest.mark.parametrize("text", SMALL)
def test_around_every_value_we_round_as_ml_dtypes(text: str) -> None:
    format = FloatFormat.parse(text)
    inputs = agreed(np.array(neighbourhoods(format), np.float32), format)
    codes = cast(inputs, SMALL[text])
    overflow = overflow_of_ml_dtypes(format)
    for y, theirs, code in zip(
        inputs.tolist(), codes.astype(np.float32).tolist(), codes.view(np.uint8).tolist(), strict=True
    ):
        ours = round_value(y, format.grid, NEAREST, overflow)
        assert same(ours, theirs), (y, ours, theirs)
        assert encode(ours, format) == code


@pytest.mark.parametrize("text", [text for text in SMALL if text != "e8m0"])
def test_around_every_value_we_round_as_gfloat_in_every_mode(text: str) -> None:
    format = FloatFormat.parse(text)
    assert_scalar_is_gfloat(format, neighbourhoods(format))


def test_scales_are_rounded_as_gfloat_does_in_every_mode() -> None:
    inputs = [y for y in neighbourhoods(E8M0) if not y < E8M0.min_normal]
    assert len(inputs) > 1000
    assert_scalar_is_gfloat(E8M0, inputs)


@pytest.mark.parametrize("text", [*SMALL, *WIDE])
def test_random_patterns_round_as_ml_dtypes_and_gfloat_say(text: str) -> None:
    format = FloatFormat.parse(text)
    (chunk,) = random_patterns(format, 2000, seed=1)
    inputs = agreed(chunk, format)
    theirs = cast(inputs, {**SMALL, **WIDE}[text]).astype(np.float32)
    overflow = overflow_of_ml_dtypes(format)
    for y, value in zip(inputs.tolist(), theirs.tolist(), strict=True):
        ours = round_value(y, format.grid, NEAREST, overflow)
        assert same(ours, value), (y, ours, value)
    positive = inputs[inputs >= format.min_normal] if format == E8M0 else inputs
    assert_scalar_is_gfloat(format, positive[:400].tolist())


@given(float_formats(16, signed=True), st.data(), st.integers(0, (1 << 32) - 1))
def test_any_format_rounds_as_gfloat_says(format: FloatFormat, data: st.DataObject, noise: int) -> None:
    any_float32 = st.floats(width=32)
    in_range = st.integers(-(1 << 24), 1 << 24).map(lambda part: part * format.max / (1 << 23))
    y = data.draw(st.one_of(any_float32, in_range.map(lambda y: float(np.clip(y, -3.4e38, 3.4e38).astype(np.float32)))))
    assert_scalar_is_gfloat(format, [y], noise=noise)


@given(st.floats(-3, 3, width=32))
def test_the_integers_of_mx_round_as_gfloat_says(y: float) -> None:
    for rounding, mode in GFLOAT_MODES.items():
        theirs = round_float(format_info_ocp_int8, y, mode, True, 0x9E3779, 24)
        assert same(round_value(y, MX_INT8.grid, rounding, SATURATE, 0x9E3779B9), theirs)


# Arrays


@pytest.mark.parametrize("source", ALL_16_BITS)
@pytest.mark.parametrize("text", [*SMALL, *WIDE])
def test_all_16_bit_inputs_round_as_ml_dtypes_and_gfloat_say(text: str, source: str) -> None:
    format = FloatFormat.parse(text)
    everything = ALL_16_BITS[source]
    inputs = agreed(everything, format)
    assert_array_is_ml_dtypes(inputs, format, {**SMALL, **WIDE}[text])
    info = gfloat_info(format)
    if format == E8M0:
        inputs = everything[everything >= format.min_normal]
    for overflow in Overflow if format.has_nan else (SATURATE,):
        for rounding in (mode for mode in Rounding if mode is not Rounding.STOCHASTIC):
            ours = round_array(inputs, format.grid, rounding, overflow)
            with np.errstate(all="ignore"):
                theirs = round_ndarray(info, inputs.astype(np.float64), GFLOAT_MODES[rounding], overflow is SATURATE)
            same_overflow = np.ones(inputs.shape, bool)
            if overflow is NONSATURATE and rounding in (Rounding.TOWARD_ZERO, Rounding.FLOOR):
                beyond = ~((abs(inputs) <= format.max) | np.isinf(inputs))
                same_overflow = ~(beyond & ((inputs > 0) | (rounding is Rounding.TOWARD_ZERO)))
            assert_same(ours[same_overflow], theirs[same_overflow], inputs[same_overflow])


@pytest.mark.parametrize("text", [*SMALL, *WIDE])
def test_ten_million_random_patterns_round_as_ml_dtypes_says(text: str) -> None:
    format = FloatFormat.parse(text)
    for inputs in random_patterns(format, 10_000_000):
        assert_array_is_ml_dtypes(agreed(inputs, format), format, {**SMALL, **WIDE}[text])


@pytest.mark.parametrize("text", [*TORCH, "bf16", "fp16"])
def test_random_patterns_round_as_torch_says(text: str) -> None:
    format = FloatFormat.parse(text)
    dtype = {**TORCH, "bf16": torch.bfloat16, "fp16": torch.float16}[text]
    samples = [*random_patterns(format, 1 << 20), *ALL_16_BITS.values()]
    for chunk in samples:
        inputs = agreed(chunk, format)
        theirs = torch.from_numpy(inputs).to(dtype).float().numpy()
        assert_same(round_array(inputs, format.grid, NEAREST, overflow_of_torch(text)), theirs, inputs)


@pytest.mark.parametrize("text", ONNX)
def test_random_patterns_round_as_onnxruntime_says(text: str) -> None:
    format, session = FloatFormat.parse(text), onnx_cast(text, saturate=True)
    for inputs in [*random_patterns(format, 1 << 20), *ALL_16_BITS.values()]:
        (theirs,) = session.run(None, {"x": inputs})
        assert_same(round_array(inputs, format.grid, NEAREST, SATURATE), theirs, inputs)


@pytest.mark.parametrize("text", ["fp8_e4m3fnuz", "fp8_e5m2fnuz"])
def test_random_patterns_overflow_as_onnxruntime_says(text: str) -> None:
    format, session = FloatFormat.parse(text), onnx_cast(text, saturate=False)
    for inputs in random_patterns(format, 1 << 20):
        (theirs,) = session.run(None, {"x": inputs})
        assert_same(round_array(inputs, format.grid, NEAREST, NONSATURATE), theirs, inputs)


def onnx_cast(text: str, *, saturate: bool) -> onnxruntime.InferenceSession:
    """The operator Cast of ONNX to a format and back."""
    there = helper.make_node("Cast", ["x"], ["codes"], to=ONNX[text], saturate=int(saturate))
    back = helper.make_node("Cast", ["codes"], ["y"], to=TensorProto.FLOAT)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([there, back], "cast", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def assert_array_is_ml_dtypes(inputs: NDArray[np.float32], format: FloatFormat, dtype: type[np.generic]) -> None:
    """Values and codes; of NaN only that it is one, if the codes have 16 bits and carry a payload."""
    ours = round_array(inputs, format.grid, NEAREST, overflow_of_ml_dtypes(format))
    theirs = cast(inputs, dtype)
    assert_same(ours, theirs.astype(np.float32), inputs)
    codes, their_codes = encode_array(ours, format), theirs.view(np.uint8 if format.bits <= 8 else np.uint16)
    differing = codes != their_codes
    if format.bits > 8:
        differing &= ~np.isnan(ours)
    assert not differing.any(), (inputs[differing][:5], codes[differing][:5], their_codes[differing][:5])


# Known disagreements: the rows of docs/formats-oracles.md


def test_every_row_of_the_page_has_its_test() -> None:
    named = re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) == len(set(named)) == 13
    assert set(named) <= set(globals())


def test_overflow_of_fp8_differs_between_the_oracles() -> None:
    y = np.array([465, -465, np.inf], np.float32)
    assert np.isnan(cast(y, ml_dtypes.float8_e4m3fn).astype(np.float32)).all()
    assert torch.from_numpy(y).to(torch.float8_e4m3fn).tolist() == [448, -448, 448]
    assert round_array(y, E4M3.grid, NEAREST, SATURATE).tolist() == [448, -448, 448]
    assert np.isnan(round_array(y, E4M3.grid, NEAREST, NONSATURATE)).all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float8_e4m3fn, 448),
        (torch.float8_e5m2, inf),
        (torch.float8_e4m3fnuz, nan),
        (torch.float8_e5m2fnuz, nan),
    ],
)
def test_torch_saturates_one_format_only(dtype: torch.dtype, expected: float) -> None:
    assert same(torch.tensor(1e30).to(dtype).item(), expected)
    assert same(torch.tensor(inf).to(dtype).item(), expected)


def test_onnxruntime_overflows_late_in_e4m3() -> None:
    """Where it does not saturate: numbers that round to 480 stay 448."""
    y = np.array([465, np.nextafter(np.float32(480), np.float32(0)), 480, 495, 496, np.inf], np.float32)
    (theirs,) = onnx_cast("fp8_e4m3", saturate=False).run(None, {"x": y})
    assert np.isnan(theirs).tolist() == [True, True, False, False, True, True]
    assert theirs[2:4].tolist() == [448, 448]
    assert np.isnan(round_array(y, E4M3.grid, NEAREST, NONSATURATE)).all()


def test_onnxruntime_overflows_to_nan_first_in_e5m2() -> None:
    """Where it does not saturate: numbers that round to 65536 become NaN, larger ones Inf."""
    y = np.array([61439, 61440, 65535, 65536, np.inf], np.float32)
    (theirs,) = onnx_cast("fp8_e5m2", saturate=False).run(None, {"x": y})
    assert np.isnan(theirs).tolist() == [False, True, True, False, False]
    assert theirs[[0, 3, 4]].tolist() == [57344, inf, inf]
    ours = round_array(y, FloatFormat.parse("fp8_e5m2").grid, NEAREST, NONSATURATE)
    assert ours.tolist() == [57344, inf, inf, inf, inf]


@pytest.mark.parametrize("text", ["fp4_e2m1", "fp6_e3m2", "fp6_e2m3"])
def test_ml_dtypes_makes_zero_of_nan_where_there_is_none(text: str) -> None:
    format = FloatFormat.parse(text)
    theirs = cast(np.array([nan, -nan, inf], np.float32), SMALL[text]).astype(np.float32).tolist()
    assert theirs[:2] == [0, 0]
    assert theirs[2] == format.max
    with pytest.raises(ValueError, match="No NaN"):
        round_float(gfloat_info(format), nan)
    assert isnan(round_value(nan, format.grid, NEAREST, SATURATE))


def test_ties_between_powers_of_two_go_up_in_ml_dtypes_and_torch() -> None:
    ties = np.array([1.5, 3, 6, 12], np.float32)
    assert cast(ties, ml_dtypes.float8_e8m0fnu).astype(np.float32).tolist() == [2, 4, 8, 16]
    assert torch.from_numpy(ties).to(torch.float8_e8m0fnu).float().tolist() == [2, 4, 8, 16]
    assert round_array(ties, E8M0.grid, NEAREST, NONSATURATE).tolist() == [2, 2, 8, 8]
    assert [round_float(format_info_ocp_e8m0, y) for y in ties.tolist()] == [2, 2, 8, 8]
    assert round_array(ties, E8M0.grid, Rounding.NEAREST_AWAY, NONSATURATE).tolist() == [2, 4, 8, 16]


def test_above_the_least_power_of_two_ml_dtypes_and_torch_go_up() -> None:
    least = 2.0**-127
    y = np.array([nextafter(least, 1), 1.25 * least], np.float32)
    y[0] = np.nextafter(np.float32(least), np.float32(1))
    assert cast(y, ml_dtypes.float8_e8m0fnu).astype(np.float32).tolist() == [2 * least] * 2
    assert torch.from_numpy(y).to(torch.float8_e8m0fnu).float().tolist() == [2 * least] * 2
    assert round_array(y, E8M0.grid, NEAREST, NONSATURATE).tolist() == [least] * 2
    assert [round_float(format_info_ocp_e8m0, v) for v in y.tolist()] == [least] * 2


def test_zero_and_negative_numbers_as_scales() -> None:
    y = np.array([0, -1, -inf], np.float32)
    least = 2.0**-127
    assert np.isnan(cast(y, ml_dtypes.float8_e8m0fnu).astype(np.float32)).all()
    assert torch.from_numpy(y).to(torch.float8_e8m0fnu).float().tolist()[:2] == [least, 1]
    assert [round_float(format_info_ocp_e8m0, v) for v in y.tolist()[:2]] == [0, -1]
    assert round_float(format_info_ocp_e8m0, 2.0**-130) == 2.0**-130  # not a value of the format
    assert round_array(y, E8M0.grid, NEAREST, SATURATE).tolist() == [least] * 3
    ours = round_array(y, E8M0.grid, NEAREST, NONSATURATE)
    assert ours[0] == least and np.isnan(ours[1:]).all()


@pytest.mark.parametrize(
    ("rounding", "y"), [(Rounding.TOWARD_ZERO, 1e6), (Rounding.TOWARD_ZERO, -1e6), (Rounding.FLOOR, 1e6)]
)
def test_gfloat_never_overflows_towards_zero(rounding: Rounding, y: float) -> None:
    assert abs(round_float(format_info_ocp_e4m3, y, GFLOAT_MODES[rounding], sat=False)) == 448
    assert isnan(round_value(y, E4M3.grid, rounding, NONSATURATE))
    assert abs(round_value(y, E4M3.grid, rounding, SATURATE)) == 448


def test_gfloat_takes_the_number_before_a_tie_for_a_tie() -> None:
    y = nextafter(0.5, 0) * E4M3.min_positive
    assert round_float(format_info_ocp_e4m3, y, RoundMode.TiesToAway) == E4M3.min_positive
    assert round_value(y, E4M3.grid, Rounding.NEAREST_AWAY, SATURATE) == 0


def test_gfloat_adds_noise_to_float64_with_a_rounding_error() -> None:
    word, y = (1 << 24) - 1, nextafter(2.0**-24, 0) * E4M3.min_positive
    assert round_float(format_info_ocp_e4m3, y, RoundMode.StochasticFastest, srbits=word, srnumbits=24) > 0
    assert round_value(y, E4M3.grid, Rounding.STOCHASTIC, SATURATE, word << 8) == 0


def test_ml_dtypes_and_torch_round_float64_twice() -> None:
    just_above_a_tie = np.array([1.0625 + 2.0**-40])
    assert cast(just_above_a_tie, ml_dtypes.float8_e4m3fn).item() == 1
    assert torch.from_numpy(just_above_a_tie).to(torch.float8_e4m3fn).item() == 1
    assert round_array(just_above_a_tie, E4M3.grid, NEAREST, SATURATE).item() == 1.125
    assert round_float(format_info_ocp_e4m3, just_above_a_tie.item()) == 1.125


def test_the_oracles_write_nan_in_several_ways() -> None:
    positive, negative = np.array([nan], np.float32), np.array([-nan], np.float32)
    e5m2 = FloatFormat.parse("fp8_e5m2")
    assert [cast(x, ml_dtypes.float8_e5m2).view(np.uint8).item() for x in (positive, negative)] == [0x7E, 0xFE]
    assert [encode(x.item(), e5m2) for x in (positive, negative)] == [0x7E, 0xFE]
    as_torch = [torch.from_numpy(x).to(torch.float8_e5m2).view(torch.uint8).item() for x in (positive, negative)]
    assert as_torch == [0x7F, 0xFF]
    assert encode_float(gfloat_info(e5m2), nan) == 0xFF
    with_payload = np.array([0x7FC12000], np.uint32).view(np.float32)
    assert cast(with_payload, np.float16).view(np.uint16) == 0x7E09
    assert encode_array(with_payload, FloatFormat.parse("fp16")) == 0x7E00
