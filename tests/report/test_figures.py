"""Limits as short text."""

from __future__ import annotations

from math import inf, nan

import pytest

from fewbits.report.figures import exact, limit, number, power_of_two


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (448.0, "448"),
        (57344.0, "57344"),
        (15.5, "15.5"),
        (0.0, "0"),
        (1.0, "1"),
        (0.125, "0.125"),
        (2.0**-4, "2^-4"),
        (2.0**-149, "2^-149"),
        (1.984375, "1.984"),
        (3.4028234663852886e38, "3.40e38"),
        (-128.0, "-128"),
    ],
)
def test_limits_are_short(value: float, text: str) -> None:
    assert limit(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0**-9, "2^-9 = 0.001953125"),
        (2.0**-14, "2^-14 = 6.103515625e-5"),
        (2.0**-149, "2^-149 = 1.4013e-45"),
        (2.0**127, "2^127 = 1.7014e38"),
        (448.0, "448"),
        (1.0009765625, "1.0009765625"),
        (1.0, "1"),
        (0.0, "0"),
    ],
)
def test_limits_in_full(value: float, text: str) -> None:
    assert exact(value) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.001953125, 3, "0.00195"),
        (1e10, 3, "1e10"),
        (1e5, 1, "1e5"),
        (1.5e-5, 2, "1.5e-5"),
        (nan, 3, "NaN"),
        (inf, 3, "Inf"),
        (-inf, 3, "-Inf"),
        (-0.0, 3, "-0"),
    ],
)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_powers_of_two_are_seen() -> None:
    assert [power_of_two(value) for value in (1.0, 0.5, 2.0**-149, 3.0, 0.0, -2.0, inf)] == [
        "2^0",
        "2^-1",
        "2^-149",
        "",
        "",
        "",
        "",
    ]
