"""Limits of float formats against published tables, ml_dtypes, numpy and brute force; what is no format."""

from math import isfinite, isinf, isnan
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import FormatError
from fewbits.formats.catalog import CATALOGUE
from fewbits.formats.floating import E4M3, FLOATS, FP32, FloatFormat, Specials
from fewbits.formats.numerics.scalar import decode
from oracles import SMALL, WIDE, finite_values, float_formats, gfloat_info


@pytest.mark.parametrize(
    ("text", "bias", "largest", "min_normal", "min_positive", "bits"),
    [
        # Micikevicius et al., arXiv 2209.05433, table 1
        ("fp8_e5m2", 15, 57344, 2**-14, 2**-16, 8),
        ("fp8_e4m3", 7, 448, 2**-6, 2**-9, 8),
        # OCP Microscaling Formats v1.0, section 5.3
        ("fp6_e3m2", 3, 28, 2**-2, 2**-4, 6),
        ("fp6_e2m3", 1, 7.5, 1, 2**-3, 6),
        ("fp4_e2m1", 1, 6, 1, 0.5, 4),
        ("e8m0", 127, 2.0**127, 2.0**-127, 2.0**-127, 8),
        # Noune et al., arXiv 2206.02915, table 1
        ("fp8_e5m2fnuz", 16, 57344, 2**-15, 2**-17, 8),
        ("fp8_e4m3fnuz", 8, 240, 2**-7, 2**-10, 8),
        # IEEE 754-2019, table 3.5; NVIDIA, A100 white paper (tf32)
        ("fp16", 15, 65504, 2**-14, 2**-24, 16),
        ("fp32", 127, (2 - 2**-23) * 2.0**127, 2.0**-126, 2.0**-149, 32),
        ("tf32", 127, (2 - 2**-10) * 2.0**127, 2.0**-126, 2.0**-136, 19),
        ("bf16", 127, (2 - 2**-7) * 2.0**127, 2.0**-126, 2.0**-133, 16),
    ],
)
def test_limits_as_published(
    text: str, bias: int, largest: float, min_normal: float, min_positive: float, bits: int
) -> None:
    format = FloatFormat.parse(text)
    assert (format.bias, format.bits) == (bias, bits)
    assert (format.max, format.min_normal, format.min_positive) == (largest, min_normal, min_positive)


@pytest.mark.parametrize("text", [*SMALL, *WIDE, "fp32"])
def test_limits_are_those_of_ml_dtypes_and_numpy(text: str) -> None:
    format = FloatFormat.parse(text)
    theirs = ml_dtypes.finfo({**SMALL, **WIDE, "fp32": np.float32}[text])
    assert (format.bits, format.exponent_bits, format.mantissa_bits) == (theirs.bits, theirs.nexp, theirs.nmant)
    assert (format.min_exponent, format.max_exponent) == (theirs.minexp, theirs.maxexp - 1)
    assert format.min_normal == theirs.smallest_normal
    assert format.min_positive == theirs.smallest_subnormal
    assert format.epsilon == theirs.eps
    assert (format.grid.low, format.grid.high) == (theirs.min, theirs.max) == (theirs.min, format.max)


@pytest.mark.parametrize("text", [*SMALL, *WIDE, "tf32", "fp32"])
def test_limits_are_those_of_gfloat(text: str) -> None:
    format = FloatFormat.parse(text)
    theirs = gfloat_info(format)
    assert (format.max, format.max_exponent, format.epsilon) == (theirs.max, theirs.emax, theirs.eps)
    assert format.grid.low == theirs.min
    assert format.has_nan == (theirs.num_nans > 0)


@given(float_formats(9))
def test_limits_are_those_of_all_codes(format: FloatFormat) -> None:
    values = [decode(code, format) for code in range(1 << format.bits)]
    finite = sorted({value + 0.0 for value in values if isfinite(value)})
    positive = [value for value in finite if value > 0]
    grid = format.grid
    assert (grid.low, grid.high) == (finite[0], finite[-1])
    assert (format.max, format.min_positive) == (finite[-1], positive[0])
    assert format.min_normal == min(value for value in positive if value >= 2.0**format.min_exponent)
    assert 2.0**format.max_exponent <= finite[-1] < 2.0 ** (format.max_exponent + 1)
    assert grid.smallest_step == min(np.diff(finite))
    assert grid.zero == (0 in finite)
    assert grid.negative_zero == any(value == 0 and np.signbit(value) for value in values)
    assert (grid.infinity, grid.nan) == (any(map(isinf, values)), any(map(isnan, values)))
    repeated_zero = int(grid.negative_zero)
    assert len(finite) + repeated_zero == sum(map(isfinite, values))


@given(float_formats(8))
def test_every_value_is_a_float32(format: FloatFormat) -> None:
    finite = finite_values(format)
    assert [float(np.float32(value)) for value in finite] == finite


@given(float_formats(), st.booleans())
def test_text_round_trips(format: FloatFormat, subnormals: bool) -> None:
    flushing = FloatFormat(
        format.exponent_bits,
        format.mantissa_bits,
        format.bias,
        format.specials,
        signed=format.signed,
        subnormals=subnormals,
        zero=format.zero,
    )
    assert FloatFormat.parse(str(format)) == format
    assert FloatFormat.parse(str(flushing)) == flushing


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("e5m2", "fp8_e5m2"),
        ("e4m3fn", "fp8_e4m3"),
        ("e4m3b8fnuz", "fp8_e4m3fnuz"),
        ("e5m2b16fnuz", "fp8_e5m2fnuz"),
        ("e3m4", "fp8_e3m4"),
        ("e2m1f", "fp4_e2m1"),
        ("e5m10", "fp16"),
        ("e8m7", "bf16"),
        ("e8m23b127", "fp32"),
        ("ue8m0fnnz", "e8m0"),
    ],
)
def test_a_named_format_may_be_spelt(spelt: str, name: str) -> None:
    assert FloatFormat.parse(spelt) == FLOATS[name]
    assert str(FloatFormat.parse(spelt)) == name


def test_names_are_unique() -> None:
    assert len(set(FLOATS.values())) == len(FLOATS)
    assert all(CATALOGUE[name] == format and str(format) == name for name, format in FLOATS.items())


def test_fields_set_limits() -> None:
    assert FloatFormat.parse("e4m3").max == 240  # IEEE specials instead of one NaN
    assert FloatFormat.parse("e4m3f").max == 480
    assert FloatFormat.parse("e4m3b11fnuz").max == 30
    assert FloatFormat.parse("e4m3fnftz").min_positive == E4M3.min_normal
    assert FloatFormat.parse("ue4m3fn").grid.low == 0
    assert FloatFormat.parse("ue4m3fn").bits == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exponent_bits": 0}, "1 to 8 exponent bits"),
        ({"exponent_bits": 9}, "1 to 8 exponent bits and 0 to 23 mantissa bits"),
        ({"mantissa_bits": 24}, "0 to 23 mantissa bits"),
        ({"mantissa_bits": -1}, "not 4 and -1"),
        ({"mantissa_bits": 0, "specials": Specials.IEEE}, "no room for both Inf and NaN: choose fn, fnuz or f"),
        ({"specials": Specials.NAN_FOR_NEGATIVE_ZERO, "signed": False}, "needs the code of -0 for NaN"),
        (
            {"specials": Specials.NAN_FOR_NEGATIVE_ZERO, "mantissa_bits": 0, "zero": False},
            "must be signed and have a zero",
        ),
        ({"zero": False, "signed": False}, "only an unsigned format without mantissa bits can do without zero"),
        ({"zero": False, "mantissa_bits": 0}, "only an unsigned format without mantissa bits can do without zero"),
        ({"exponent_bits": 1, "specials": Specials.IEEE, "bias": 0}, "leave no finite number"),
        ({"exponent_bits": 1, "mantissa_bits": 0, "bias": 0}, "e1m0fn: the special codes leave no finite number"),
        ({"exponent_bits": 8, "bias": 126}, r"from 2\*\*-128 to 2\*\*129; float32 holds 2\*\*-149 to 2\*\*127"),
        ({"bias": 150}, r"from 2\*\*-152 .* choose another bias or fewer bits"),
        ({"bias": -120}, r"to 2\*\*135; float32 holds"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    possible = {"exponent_bits": 4, "mantissa_bits": 3, "bias": 7, "specials": Specials.NAN_ONLY}
    with pytest.raises(FormatError, match=message):
        FloatFormat(**{**possible, **fields})


@pytest.mark.parametrize(
    "text",
    ["", "e4", "m3", "e4m", "em3", "e4m3fnx", "e4m3 ", "e4m3\n", "E4M3", "e4m3b", "e4m3nzfn", "fp8_e4m3fnuzz", "-e4m3"],
)
def test_what_is_no_format_is_refused_with_examples(text: str) -> None:
    with pytest.raises(FormatError, match="for example bf16, fp8_e4m3"):
        FloatFormat.parse(text)


def test_a_text_of_impossible_fields_says_why() -> None:
    with pytest.raises(FormatError, match="no room for both Inf and NaN"):
        FloatFormat.parse("e7m0")
    with pytest.raises(FormatError, match="float32 holds"):
        FloatFormat.parse("e8m23b128")
    assert FloatFormat.parse("e8m23") == FP32
