"""Factors as a plan holds them: read back, never far from what they stand for, refused if they are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import PlanError
from fewbits.smoothing import parse, text

FACTORS = st.lists(st.floats(2.0**-29, 2.0**29), min_size=1, max_size=40)


@given(FACTORS)
def test_the_text_is_read_back(factors: list[float]) -> None:
    """Once rounded, factors stay as they are."""
    once = parse(text(factors))
    assert text(once) == text(factors)
    assert np.array_equal(parse(text(once)), once)


@given(FACTORS)
def test_rounding_moves_no_factor_by_more_than_half_a_step(factors: list[float]) -> None:
    """A step is a fourth of an octave."""
    apart = np.abs(np.log2(parse(text(factors)).astype(np.float64) / factors))
    assert apart.max() <= 1 / 8 + 1e-6


def test_powers_of_two_are_exact() -> None:
    assert text([1.0, 2.0, 0.25]) == "0 4 -8"
    assert parse("0 4 -8").tolist() == [1.0, 2.0, 0.25]


@pytest.mark.parametrize("wrong", ["", "1 two", "1.5", "0 999"])
def test_what_is_no_list_of_exponents_is_refused(wrong: str) -> None:
    with pytest.raises(PlanError, match="factors of smoothing"):
        parse(wrong)
