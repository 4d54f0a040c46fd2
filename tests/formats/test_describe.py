"""Facts about formats against what the codes say, and against what a quantised array really takes."""

from __future__ import annotations

from math import copysign, isinf, isnan

import numpy as np
import pytest
from hypothesis import given

from drawn_formats import formats
from fewbits.formats.catalog import CATALOGUE
from fewbits.formats.describe import Kind, bits_per_element, describe, relatives, tile_size
from fewbits.formats.floating import FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.scalar import decode
from fewbits.formats.qtensor import QTensor
from fewbits.formats.scaled import Format, ScaledFormat
from fewbits.formats.text import parse

SMALL_FLOATS = [name for name, format in CATALOGUE.items() if isinstance(format, FloatFormat) and format.bits <= 16]


@pytest.mark.parametrize("name", [*SMALL_FLOATS, "e4m3", "e4m3b11fnuz", "ue4m3f", "e2m5fn", "e3m0f"])
def test_facts_about_floats_are_those_of_their_codes(name: str) -> None:
    format = parse(name)
    assert isinstance(format, FloatFormat)
    facts = describe(format)
    values = [decode(code, format) for code in range(1 << format.bits)]
    finite = {value for value in values if not isnan(value) and not isinf(value)}
    positive = sorted(value for value in finite if value > 0)
    assert facts.values == len(finite)
    assert (facts.low, facts.max, facts.min_positive) == (min(finite), positive[-1], positive[0])
    assert facts.signed == (min(finite) < 0)
    assert facts.infinity == any(map(isinf, values))
    assert facts.nan == any(map(isnan, values))
    assert facts.negative_zero == any(value == 0 and copysign(1, value) < 0 for value in values)
    if 1.0 in finite and positive[-1] > 1.0:
        assert facts.epsilon == min(value for value in positive if value > 1) - 1


def test_flushed_numbers_are_not_values() -> None:
    kept, flushed = describe(parse("e4m3fn")), describe(parse("e4m3fnftz"))
    assert kept.values - flushed.values == 14
    assert flushed.min_positive == kept.min_normal


@pytest.mark.parametrize(
    ("text", "low", "high", "least", "values"),
    [
        ("int4", -8, 7, 1, 16),
        ("int4r", -7, 7, 1, 15),
        ("uint8", 0, 255, 1, 256),
        ("int8f6", -2, 127 / 64, 1 / 64, 256),
        ("binary", -1, 1, 1, 2),
        ("ternary", -1, 1, 1, 3),
        ("codebook(-3,-1,0.5,2)", -3, 2, 0.5, 4),
        ("codebook(-3,-1)", -3, -1, 0, 2),
        ("int4r/g128", -7, 7, 1, 15),
    ],
)
def test_facts_about_the_others(text: str, low: float, high: float, least: float, values: int) -> None:
    facts = describe(parse(text))
    assert (facts.low, facts.max, facts.min_positive, facts.values) == (low, high, least, values)
    assert (facts.epsilon, facts.infinity, facts.nan, facts.negative_zero) == (0, False, False, False)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("mxfp8_e4m3", 8.25),
        ("mxfp6_e3m2", 6.25),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5),
        ("int4r/g128", 4.25),
        ("uint4/g64", 4 + (32 + 4) / 64),
        ("bfp8/tile24x24", 8 + 32 / 576),
        ("int8r/channel", 8),
        ("bf16", 16),
    ],
)
def test_bits_per_element(text: str, bits: float) -> None:
    assert bits_per_element(parse(text)) == bits


@pytest.mark.parametrize(
    "text", ["mxfp4", "mxfp6_e2m3", "mxint8", "int4r/g128", "uint4/g64", "bfp8/tile32x16", "kmeans4/g512", "nf4/g64"]
)
def test_bits_per_element_are_what_an_array_takes(text: str) -> None:
    format = parse(text)
    assert isinstance(format, ScaledFormat)
    shape = (512, 1024)
    count = tuple(-(-size // step) for size, step in zip(shape, format.granularity.tile(shape), strict=True))
    fitted = text.startswith("kmeans")
    array = QTensor(
        np.zeros(shape, np.uint8),
        np.ones(count, np.float32),
        np.zeros(count, np.int32),
        np.ones((), np.float32),
        np.zeros((*count, 1 << format.bits) if fitted else (0,), np.float32),
        format,
        "float32",
    )
    assert array.nbytes * 8 == bits_per_element(format) * 512 * 1024


@given(formats)
def test_every_format_has_a_description(format: Format) -> None:
    facts = describe(format)
    assert parse(facts.name) == format
    assert facts.what
    assert facts.source
    assert facts.low <= facts.max
    assert facts.bits_per_element >= facts.bits == format.bits
    assert facts.values <= 1 << facts.bits
    assert (facts.kind is Kind.SCALED) == isinstance(format, ScaledFormat)
    assert (facts.kind is Kind.INTEGER) == isinstance(format, IntFormat)


def test_the_tile_of_a_channel_depends_on_the_shape() -> None:
    assert [tile_size(parse(text)) for text in ("int8/channel", "int8/tensor", "int8/g64", "int8/tile2x3x4")] == [
        0,
        0,
        64,
        24,
    ]


def test_what_is_easily_mistaken_is_named() -> None:
    assert relatives(parse("e4m3")) == ("fp8_e4m3", "fp8_e4m3fnuz")
    assert relatives(parse("fp8_e4m3/tensor")) == ("fp8_e4m3fnuz",)
    assert relatives(parse("int8")) == relatives(parse("bf16")) == ()
