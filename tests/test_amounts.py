"""Times and sizes with their units."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.amounts import DURATION, LATENCY, SIZE, Measure
from fewbits.errors import UsageError


@pytest.mark.parametrize(
    ("measure", "written", "expected"),
    [
        (LATENCY, "5ms", 0.005),
        (LATENCY, " 0.005 s ", 0.005),
        (LATENCY, "800us", 0.0008),
        (LATENCY, "800µs", 0.0008),
        (LATENCY, "800 μs", 0.0008),
        (LATENCY, "1e3ns", 1e-6),
        (LATENCY, 0.005, 0.005),
        (LATENCY, 1, 1.0),
        (SIZE, "20MB", 20_000_000),
        (SIZE, "20mb", 20_000_000),
        (SIZE, "16MiB", 16 * 2**20),
        (SIZE, "512 kB", 512_000),
        (SIZE, "1.5KiB", 1536),
        (SIZE, "2GB", 2_000_000_000),
        (SIZE, "7B", 7),
        (SIZE, 1024, 1024),
        (DURATION, "90s", 90),
        (DURATION, "10m", 600),
        (DURATION, "10 min", 600),
        (DURATION, "1.5h", 5400),
        (DURATION, 30, 30),
    ],
)
def test_amounts_as_people_write_them(measure: Measure, written: str | float, expected: float) -> None:
    assert measure.parse(written) == expected


@pytest.mark.parametrize("measure", [LATENCY, SIZE, DURATION])
@pytest.mark.parametrize(
    "given_", ["", "5", "fast", "5 apples", "-5s", "-5B", "0s", "0B", "5sms", 0, -1, nan, inf, True]
)
def test_what_is_no_amount_says_how_to_write_one(measure: Measure, given_: str | float) -> None:
    with pytest.raises(UsageError, match=f"{measure.what}.*such as"):
        measure.parse(given_)


def test_a_number_without_a_unit_is_not_guessed_at() -> None:
    """5 could be milliseconds as well as seconds."""
    with pytest.raises(UsageError, match="'5': it has no unit"):
        LATENCY.parse("5")
    with pytest.raises(UsageError, match="'m' is no unit of it"):
        LATENCY.parse("5m")


@given(st.sampled_from([LATENCY, SIZE, DURATION]), st.floats(1e-12, 1e15))
def test_the_text_form_round_trips(measure: Measure, amount: float) -> None:
    assert measure.parse(measure.text(amount)) == amount


def test_the_text_form_is_short() -> None:
    assert [LATENCY.text(one) for one in (0.005, 0.0008, 2.5, 3e-9)] == ["5ms", "800us", "2.5s", "3ns"]
    assert [SIZE.text(one) for one in (20_000_000, 512_000, 1)] == ["20MB", "512kB", "1B"]
    assert DURATION.text(600) == "600s"
