"""Limits of integer formats against the definitions, and what is not a format."""

import numpy as np
import pytest

from fewbits.errors import FormatError
from fewbits.formats.integer import INT8, INT8R, UINT8, IntFormat


@pytest.mark.parametrize(
    ("text", "low", "high", "levels"),
    [
        ("int8", -128, 127, 256),
        ("int8r", -127, 127, 255),
        ("uint8", 0, 255, 256),
        ("int4", -8, 7, 16),
        ("uint4", 0, 15, 16),
        ("int2r", -1, 1, 3),
        ("uint16", 0, 65535, 65536),
    ],
)
def test_limits(text: str, low: int, high: int, levels: int) -> None:
    format = IntFormat.parse(text)
    assert (format.qmin, format.qmax, format.levels) == (low, high, levels)


@pytest.mark.parametrize(("format", "dtype"), [(INT8, np.int8), (UINT8, np.uint8)])
def test_the_whole_formats_are_numpys_types(format: IntFormat, dtype: type[np.integer]) -> None:
    assert (format.qmin, format.qmax) == (np.iinfo(dtype).min, np.iinfo(dtype).max)


def test_a_restricted_format_mirrors() -> None:
    assert INT8R.qmin == -INT8R.qmax


@pytest.mark.parametrize(
    "text", ["", "int", "int1", "int17", "int99", "int08", "uint8r", "int8 ", "int8\n", "INT8", "fp8"]
)
def test_what_is_no_format_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(FormatError, match=r"for example int8|2 to 16 bits"):
        IntFormat.parse(text)


def test_an_unsigned_format_cannot_be_restricted() -> None:
    with pytest.raises(FormatError, match="signed"):
        IntFormat(8, signed=False, restricted=True)
