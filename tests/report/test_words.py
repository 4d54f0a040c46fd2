from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.report.words import microseconds, readable_bytes, readable_time, shortened, significant


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (98_100_000, "98.1 MB"),
        (2_500_000_000, "2.50 GB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert readable_bytes(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.98765, "0.988"), (1, "1.00"), (99.95, "100"), (-0.0012345, "-0.00123"), (123456.7, "123457")],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-4, 1e12) | st.floats(-1e12, -1e-4))
def test_a_shown_figure_is_within_half_a_percent(value: float) -> None:
    text = significant(value)
    assert "e" not in text
    assert not text.endswith(".")
    assert float(text) == pytest.approx(value, rel=0.0051)


def test_what_was_not_measured_is_a_dash() -> None:
    assert microseconds(-1.0) == "-"
    assert microseconds(12.34e-6) == "12.3"


@given(st.text(), st.integers(10, 60))
def test_a_short_name_is_whole_and_a_long_one_keeps_both_ends(name: str, width: int) -> None:
    short = shortened(name, width)
    if len(name) <= width:
        assert short == name
    else:
        assert len(short) == width
        head, tail = short.split("...")[0], short[-3:]
        assert name.startswith(head)
        assert name.endswith(tail)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_times(seconds: float, text: str) -> None:
    assert readable_time(seconds) == text
