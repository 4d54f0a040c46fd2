"""The comparison as text and as JSON: every figure is there, at 80 columns, with and without colour."""

from __future__ import annotations

import json
import re
from math import inf

import numpy as np
import pytest

from fewbits.comparison import CANDIDATES, Cell, FormatComparison, Octaves, Refused, Row, Skipped, Span, compare
from fewbits.data.weights import FileWeights
from fewbits.formats.numerics.fidelity import Fidelity
from fewbits.graph import Tensor
from fewbits.report.comparison import Paper, decibel_text, heat, render, share
from fewbits.report.comparison_json import to_json

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def row(name: str, *figures: float | str, size: int = 1000, nans: int = 0) -> Row:
    cells = tuple(
        Refused(one) if isinstance(one, str) else Cell(8.0, Fidelity(size, size - nans, one, 5, 250, 0.125), SPAN)
        for one in figures
    )
    return Row(name, "float32", (size,), nans, 0, Octaves(0, (size,), 0), cells)


SPAN = Span(0.1, 1.0, 0.1, 1.0)
FORMATS = ("int8r/channel", "mxfp4")


def many(count: int) -> FormatComparison:
    rows = tuple(
        row(f"encoder.layer.{place}.attention.self.query.weight", 30.0 + place, 20.0) for place in range(count)
    )
    return FormatComparison(FORMATS, rows)


def test_one_tensor_is_a_table_of_formats() -> None:
    text = render(FormatComparison(FORMATS, (row("w", 37.25, 18.75),)))
    assert text.startswith("w: float32, 1000, 1,000 elements\n")
    line = next(line for line in text.splitlines() if line.startswith("int8r/channel"))
    assert line.split() == ["int8r/channel", "*", "8.00", "37.2", "0.50%", "25%", "0.125"]
    assert "mxfp4 *" not in text


def test_several_tensors_are_totals_and_a_heat_map() -> None:
    text = render(FormatComparison(FORMATS, (row("first", 40.0, 20.0), row("second", inf, "no such axis"))), Paper(100))
    assert "2 tensors, 2,000 elements" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "int8r/channel", "*", "8.00", "43.0", "40.0", "0.50%", "25%", "first"] in lines
    assert ["first", "40", "20"] in lines
    assert ["second", "=", "-"] in lines
    assert "mxfp4 was not applied to 1 tensor, such as second: no such axis." in text


def test_of_many_tensors_the_worst_are_shown() -> None:
    text = render(many(40))
    assert "the 12 tensors with the lowest mean of 40" in text
    shown = re.findall(r"^encoder\.layer\.(\d+)\.", text, re.MULTILINE)
    assert [int(number) for number in shown] == list(range(12))


@pytest.mark.parametrize("width", [20, 80, 100, 200])
@pytest.mark.parametrize("colour", [False, True])
def test_no_line_is_wider_than_the_paper(width: int, *, colour: bool) -> None:
    tensor = Tensor("encoder.a_very_long_name_that_goes_on." + "x" * 90, "float32", (24, 96))
    x = np.random.default_rng(0).standard_normal((24, 96)).astype(np.float32)
    other = Tensor("b", "float32", (24, 96))
    text = render(compare(FileWeights((tensor, other), lambda _: x)), Paper(width, colour))
    assert max(len(ESCAPE.sub("", line)) for line in text.splitlines()) <= max(width, 80)
    flat = ESCAPE.sub("", text)
    assert all(format in flat for format in CANDIDATES)


def test_colour_adds_nothing_but_colour() -> None:
    plain, coloured = render(many(3)), render(many(3), Paper(colour=True))
    assert "\x1b[" in coloured
    assert "\x1b" not in plain
    assert [line.rstrip() for line in ESCAPE.sub("", coloured).splitlines()] == plain.splitlines()


def test_every_cell_can_be_read() -> None:
    for sqnr in (-inf, -3.0, 0.0, 9.9, 25.0, 49.0, 200.0, inf):
        style = heat(sqnr)
        assert style.color is not None and style.bgcolor is not None
        lightness = [sum(one.get_truecolor()) for one in (style.color, style.bgcolor)]
        assert abs(lightness[0] - lightness[1]) > 250


def test_what_was_left_out_is_said() -> None:
    rows = tuple(row(f"w{place}", 30.0, 20.0, nans=place) for place in range(6))
    skipped = (Skipped("steps", "int64, no float"), Skipped("none", "empty"), Skipped("more", "int64, no float"))
    text = " ".join(render(FormatComparison(FORMATS, rows, skipped)).split())
    assert "NaN or Inf: 15 elements, in w1 (1 NaN, 0 Inf), w2 (2 NaN, 0 Inf), w3 (3 NaN, 0 Inf) and 2 more." in text
    assert "Skipped 2 tensors (int64, no float): steps, more." in text
    assert "Skipped 1 tensor (empty): none." in text


def test_a_format_that_fits_nothing_has_a_row_of_dashes() -> None:
    text = render(FormatComparison(FORMATS, (row("a", 30.0, "why"), row("b", 30.0, "why"))))
    assert re.search(r"^ *2 +mxfp4 +- +- +- +- +-$", text, re.MULTILINE)


def test_markup_in_a_name_is_only_text() -> None:
    assert "[bold]w[/bold]" in render(
        FormatComparison(FORMATS, (row("[bold]w[/bold]", 30.0, 20.0), row("b", 3.0, 2.0)))
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0, "-"), (1e-9, "<0.01%"), (0.00012, "0.012%"), (0.012, "1.2%"), (0.5, "50%"), (1, "100%")]
)
def test_shares(value: float, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(("value", "text"), [(inf, "exact"), (-inf, "-inf"), (31.25, "31.2"), (-3.0, "-3.0")])
def test_decibels(value: float, text: str) -> None:
    assert decibel_text(value) == text


def test_json_holds_every_figure_and_no_infinite_number() -> None:
    comparison = FormatComparison(
        FORMATS, (row("a", 40.0, inf), row("b", "why", -inf)), (Skipped("i", "int64, no float"),)
    )
    stored = json.loads(to_json(comparison), parse_constant=pytest.fail)
    assert stored["formats"] == list(FORMATS)
    assert [tensor["name"] for tensor in stored["tensors"]] == ["a", "b"]
    assert stored["tensors"][0]["formats"][0] == {
        "format": "int8r/channel",
        "bits_per_element": 8.0,
        "sqnr_db": 40.0,
        "clipped": 5,
        "underflowed": 250,
        "max_error": 0.125,
    }
    assert stored["tensors"][0]["formats"][1]["sqnr_db"] == "inf"
    assert stored["tensors"][1]["formats"][0] == {"format": "int8r/channel", "not_applied": "why"}
    assert stored["totals"][1]["worst_sqnr_db"] == "-inf"
    assert float(stored["totals"][1]["worst_sqnr_db"]) == -inf
    assert stored["skipped"] == [{"name": "i", "reason": "int64, no float"}]
