from __future__ import annotations

from collections.abc import Mapping
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.errors import DataError
from fewbits.refine.ranges import descend, table_score

CANDIDATES = {"a": (1.0, 2.0, 3.0), "b": (1.0, 2.0), "c": (5.0,)}


@given(st.lists(st.floats(0, 10) | st.just(nan) | st.just(inf), min_size=6, max_size=6), st.integers(1, 8))
def test_is_never_worse_than_the_start(scores: list[float], evaluations: int) -> None:
    """Whatever the scores; with all evaluations, no change of one tensor is better than what was chosen."""
    table = np.reshape(scores, (3, 2))

    def score(chosen: Mapping[str, float]) -> float:
        return float(table[CANDIDATES["a"].index(chosen["a"]), CANDIDATES["b"].index(chosen["b"])])

    found = descend(CANDIDATES, score, evaluations=evaluations)
    start = table[0, 0] if not np.isnan(table[0, 0]) else inf
    assert found.start_score == start
    assert found.score <= start
    assert found.evaluations <= evaluations
    whole = descend(CANDIDATES, score, sweeps=10)
    alone = [score(dict(whole.chosen) | {name: value}) for name, options in CANDIDATES.items() for value in options]
    assert whole.score == (min(other for other in [*alone, inf] if not np.isnan(other)))


def test_additive_harms_are_minimised_in_one_sweep() -> None:
    table = {"a": {1.0: 3, 2.0: 1, 3.0: 2}, "b": {1.0: 0.5, 2.0: 0.25}, "c": {5.0: 7}}
    found = descend(CANDIDATES, table_score(table), sweeps=1)
    assert (found.chosen, found.score) == ({"a": 2.0, "b": 2.0, "c": 5.0}, 8.25)


def test_what_depends_on_another_tensor_is_found_by_a_second_sweep() -> None:
    order = [(1.0, 1.0), (1.0, 2.0), (3.0, 2.0)]  # b has to move first, then a

    def score(chosen: Mapping[str, float]) -> float:
        return -float(order.index(pair) if (pair := (chosen["a"], chosen["b"])) in order else -1)

    assert descend(CANDIDATES, score, sweeps=1).chosen["a"] == 1.0
    assert descend(CANDIDATES, score, sweeps=2).chosen == {"a": 3.0, "b": 2.0, "c": 5.0}


def test_equals_keep_the_earlier_candidate_and_no_choice_is_scored_twice() -> None:
    seen = []

    def score(chosen: Mapping[str, float]) -> float:
        seen.append(tuple(chosen.values()))
        return 1.0

    assert descend(CANDIDATES, score, sweeps=5).chosen == {"a": 1.0, "b": 1.0, "c": 5.0}
    assert len(seen) == len(set(seen)) == 4


def test_impossible_searches_are_refused() -> None:
    with pytest.raises(DataError, match="x have no candidate"):
        descend({"x": ()}, lambda chosen: 0.0)
    with pytest.raises(DataError, match="one evaluation"):
        descend(CANDIDATES, lambda chosen: 0.0, evaluations=0)
