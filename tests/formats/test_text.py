"""Formats as text: what is written is read back, names of other libraries are understood, and errors say what to do."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given

from drawn_formats import formats, scaled
from fewbits.errors import FormatError
from fewbits.formats.catalog import CATALOGUE
from fewbits.formats.floating import BF16, E2M1, E4M3, E5M2, E8M0, FP16, FP32, FloatFormat, Specials
from fewbits.formats.granularity import Channel, Group, Tensor, Tile, Token
from fewbits.formats.integer import INT8, INT8R, UINT8, IntFormat
from fewbits.formats.levels import CodebookFormat, TernaryFormat, TernaryRule
from fewbits.formats.scaled import REAL, Element, Format, NestedScale, PowerOfTwoScale, ScaledFormat, ScaleRule
from fewbits.formats.text import format_text, parse


@given(formats)
def test_what_is_written_is_read_back(format: Format) -> None:
    assert parse(format_text(format)) == format


@given(formats)
def test_upper_case_and_blanks_change_nothing(format: Format) -> None:
    written = format_text(format)
    assert parse(f"  {written.upper().replace('/', ' / ')} ") == format


@given(formats, scaled)
def test_different_formats_have_different_texts(one: Format, other: Format) -> None:
    assert (format_text(one) == format_text(other)) == (one == other)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_name_is_the_text_of_its_format(name: str) -> None:
    assert format_text(CATALOGUE[name]) == name
    assert parse(name) == CATALOGUE[name]


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("int8r/channel", ScaledFormat(INT8R, Channel())),
        ("int4r/g128", ScaledFormat(IntFormat(4, signed=True, restricted=True), Group(128))),
        ("uint8/tensor", ScaledFormat(UINT8, Tensor(), REAL, asymmetric=True)),
        ("uint8/tensor/sym", ScaledFormat(UINT8, Tensor(), REAL, asymmetric=False)),
        ("int8/token/asym", ScaledFormat(INT8, Token(), REAL, asymmetric=True)),
        ("fp8_e4m3/tile128x128", ScaledFormat(E4M3, Tile((128, 128)))),
        ("int8/tensor/pow2", ScaledFormat(INT8, Tensor(), PowerOfTwoScale(storage=FP32))),
        ("int8/tensor/real", ScaledFormat(INT8, Tensor())),
        ("fp4_e2m1/g16/nested-fp8_e4m3", ScaledFormat(E2M1, Group(16), NestedScale(E4M3))),
        ("mxfp4-rceil/g32@0", ScaledFormat(E2M1, Group(32, 0), PowerOfTwoScale(ScaleRule.RCEIL, E8M0))),
        ("mxfp8_e5m2-even", ScaledFormat(E5M2, Group(32), PowerOfTwoScale(ScaleRule.EVEN))),
        ("bfp8/tile24x24", ScaledFormat(INT8R, Tile((24, 24)), PowerOfTwoScale(storage=FP32))),
        ("bfp4-ceil", ScaledFormat(IntFormat(4, True, True), Tensor(), PowerOfTwoScale(ScaleRule.CEIL, FP32))),
        ("e4m3b11fnuz", FloatFormat(4, 3, 11, Specials.NAN_FOR_NEGATIVE_ZERO)),
        ("ue4m3fftz", FloatFormat(4, 3, 7, Specials.NONE, signed=False, subnormals=False)),
        ("ternary-twn", TernaryFormat(TernaryRule.THRESHOLD)),
        ("codebook( -1, 0, 1e-1 )", CodebookFormat((-1.0, 0.0, 0.1))),
    ],
)
def test_texts_mean(text: str, format: Format) -> None:
    assert parse(text) == format


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        ("fp4_e2m1/g32/e8m0", "mxfp4"),
        ("fp4_e2m1/g32/e8m0-floor", "mxfp4"),
        ("fp4_e2m1/block32/e8m0-rceil", "mxfp4-rceil"),
        ("fp4_e2m1/g16/nested-fp8_e4m3", "nvfp4"),
        ("int8rf6/g32/e8m0", "mxint8"),
        ("int8r/tensor/pow2", "bfp8"),
        ("bfp8/tensor", "bfp8"),
        ("e4m3fn", "fp8_e4m3"),
        ("ue8m0fnnz", "e8m0"),
        ("e5m10", "fp16"),
        ("int8/channel@0/real/sym", "int8/channel"),
        ("ternary-optimal", "ternary"),
    ],
)
def test_there_is_one_text_for_each_format(longer: str, shorter: str) -> None:
    assert format_text(parse(longer)) == shorter


def test_a_codebook_of_numpy_numbers_is_read_back() -> None:
    book = CodebookFormat(tuple(np.array([-1, 0.1, 0.7], dtype=np.float32)))
    assert parse(format_text(book)) == book


# --- what others call them ---------------------------------------------------------------------

_ML_DTYPES = [
    "bfloat16",
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e5m2fnuz",
    "float8_e4m3fnuz",
    "float8_e4m3b11fnuz",
    "float8_e3m4",
    "float6_e3m2fn",
    "float6_e2m3fn",
    "float4_e2m1fn",
]


@pytest.mark.parametrize("name", _ML_DTYPES)
def test_names_of_ml_dtypes_mean_the_same_numbers(name: str) -> None:
    format = parse(name)
    assert isinstance(format, FloatFormat)
    theirs = ml_dtypes.finfo(name)
    assert format.bits == theirs.bits
    assert (format.max, format.min_positive) == (float(theirs.max), float(theirs.smallest_subnormal))
    assert (format.min_normal, format.epsilon) == (float(theirs.smallest_normal), float(theirs.eps))
    one_nan = np.array(np.nan, name).astype(float)
    assert format.has_nan == np.isnan(one_nan)


@pytest.mark.parametrize(
    ("dtype", "format"),
    [
        (torch.float32, FP32),
        (torch.float16, FP16),
        (torch.bfloat16, BF16),
        (torch.float8_e4m3fn, E4M3),
        (torch.float8_e5m2, E5M2),
        (torch.float8_e8m0fnu, E8M0),
        (torch.float4_e2m1fn_x2, E2M1),
        (torch.int8, INT8),
        (torch.uint8, UINT8),
    ],
)
def test_dtypes_of_torch_are_read(dtype: torch.dtype, format: Element) -> None:
    assert parse(str(dtype)) == format


def test_other_names_can_be_scaled() -> None:
    assert parse("float8_e4m3fn/channel") == ScaledFormat(E4M3, Channel())


@pytest.mark.parametrize("name", ["float8_e4m3", "FLOAT8E4M3", "f8e4m3/channel"])
def test_a_name_with_two_meanings_is_not_guessed(name: str) -> None:
    with pytest.raises(FormatError, match=r"choose fp8_e4m3, .* or e4m3"):
        parse(name)


# --- what is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("fp8_e4m4", "fp8_e4m3"),
        ("fp8e4m3", "fp8_e4m3"),
        ("fp8", "fp8_e4m3"),
        ("mxfp8", "mxfp8_e4m3 or mxfp8_e5m2"),
        ("mxfp6", "mxfp6_e3m2 or mxfp6_e2m3"),
        ("nvpf4", "nvfp4"),
        ("fb16", "fp16"),
        ("tenary", "ternary"),
        ("itn8/channel", "int8/channel"),
        ("kmeans", "kmeans4"),
    ],
)
def test_nearest_names_are_suggested(text: str, near: str) -> None:
    with pytest.raises(FormatError, match=r"is not a number format; did you mean") as caught:
        parse(text)
    assert near in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "what_to_do"),
    [
        ("", "fewbits formats"),
        ("zzz", "fewbits formats"),
        ("double", "up to fp32"),
        ("int1", "binary"),
        ("int17", "2 to 16 bits"),
        ("uint8r", "for example int8"),
        ("int8f65", "0 to 64 bits"),
        ("e9m3", "1 to 8 exponent bits"),
        ("e5m24", "0 to 23 mantissa bits"),
        ("e8m23b100", "choose another bias"),
        ("e4m0", "choose fn, fnuz or f"),
        ("ue4m3fnuz", "must be signed and have a zero"),
        ("e4m3nz", "without mantissa bits"),
        ("kmeans9", "1 to 8 bits"),
        ("codebook(1,0)", "rising order"),
        ("codebook(1)", "2 to 65536 values"),
        ("codebook(a,b)", "codebook(-1,0,0.5)"),
        ("codebook(0,inf)", "finite"),
        ("int8/", "choose tensor, channel"),
        ("int8/chanel", "choose tensor, channel"),
        ("int8/g0", "at least one element"),
        ("int8/tile0x4", "at least one element"),
        ("int8/tensor/log", "choose real, e8m0"),
        ("int8/tensor/nested", "nested-fp8_e4m3"),
        ("int8/tensor/nested-int8", "for example bf16"),
        ("int8/tensor/asym/sym", "one of asym and sym"),
        ("int8/tensor/real/pow2", "one kind of scale"),
        ("uint8/tensor/pow2", "/sym"),
        ("fp8_e4m3/tensor/asym", "only integers have a zero point"),
        ("ternary/tensor/pow2", "real scales only"),
        ("e8m0/tensor", "it can be a scale"),
        ("mxfp4-rciel", "choose floor, ceil, rceil, even"),
        ("mxfp4-", "choose floor, ceil, rceil, even"),
        ("bfp8-up", "choose floor, ceil, rceil, even"),
        ("nvfp4-ceil", "nested-fp8_e4m3"),
        ("mxfp4/g32/real", "write fp4_e2m1/g32/real"),
        ("bfp8/tensor/pow2", "write int8r/tensor/pow2"),
        ("bfp1", "2 to 16 bits"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(text: str, what_to_do: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(text)
    assert what_to_do in str(caught.value)
