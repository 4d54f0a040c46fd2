"""Sheets of formats: there is one for every format, and its codes are those of the format."""

from __future__ import annotations

import pytest
from hypothesis import given

from drawn_formats import formats
from fewbits.formats.floating import FloatFormat
from fewbits.formats.numerics.scalar import decode
from fewbits.formats.scaled import Format
from fewbits.formats.text import format_text, parse
from fewbits.native import native, on_cpu
from fewbits.report.codes import codes
from fewbits.report.format_sheet import sheet

MACHINE = on_cpu(("avx2", "avx512_vnni"))


@given(formats)
def test_every_format_has_a_sheet(format: Format) -> None:
    text = sheet(format, native(format, MACHINE), 80)
    assert "".join(text.split()).startswith("".join(f"{format_text(format)}:".split()))
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    "name", ["fp8_e5m2", "fp8_e4m3", "fp8_e3m4", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", "e8m0", "e1m0f", "e1m6f", "ue3m0f"]
)
def test_a_matrix_holds_every_code_once(name: str) -> None:
    element = parse(name)
    assert isinstance(element, FloatFormat)
    rows = [line.split() for line in codes(element, 120) if line.startswith("0x")]
    shown: dict[int, float] = {}
    for code, *cells in rows:
        # The binade stands before the values, unless a row holds several.
        values = cells[1:] if element.mantissa_bits else cells
        for place, text in enumerate(values):
            base, _, power = text.partition("^")
            shown[int(code, 16) + place] = 2.0 ** int(power) if power else float(base)
    half = 1 << (element.bits - int(element.signed))
    assert list(shown) == list(range(half))
    for code, value in shown.items():
        assert value == pytest.approx(decode(code, element), rel=5e-5, nan_ok=True)
