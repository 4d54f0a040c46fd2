"""Means of channels as a plan holds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import PlanError
from fewbits.means import parse, text


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_they_come_back_to_within_half_a_step(means: list[float]) -> None:
    found = parse(text(means))
    step = np.abs(means).max() / 1000
    assert np.abs(found - np.asarray(means)).max() <= 0.5001 * step + 1e-40
    assert np.array_equal(parse(text(found)), found) or np.allclose(parse(text(found)), found, rtol=1e-5)


def test_zeros() -> None:
    assert np.array_equal(parse(text(np.zeros(3))), np.zeros(3))


@pytest.mark.parametrize("wrong", ["", "1 2 3", "x: 1 2", "0.1:", "nan: 1", "-1: 2", "0.1: one"])
def test_anything_else_is_refused(wrong: str) -> None:
    with pytest.raises(PlanError, match="means of channels"):
        parse(wrong)
