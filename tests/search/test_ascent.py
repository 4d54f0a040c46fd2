from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.search.ascent import Ascent
from fewbits.search.problem import Attempt, Finished, Rung, Trial

LIMIT = 1.0
COSTS = st.floats(0.01, 100.0)


def play(
    costs: Sequence[float], measured: Callable[[int], float], trials: int = 6, *, original: bool = True
) -> tuple[Finished, list[Trial]]:
    """The strategy against `measured(place)`; its end and the trials. The original is beyond the limit."""
    strategy = Ascent(trials)
    state = strategy.init([Rung({"a": str(place)}, -cost, cost) for place, cost in enumerate(costs)], LIMIT)
    last = len(costs) - 1
    history = [Trial(last, max(measured(last), 1.01 * LIMIT), False)] if original else []
    made: list[Trial] = []
    while True:
        step = strategy.propose(state, history)
        if isinstance(step, Finished):
            return step, made
        assert isinstance(step, Attempt)
        assert step.why
        assert 0 <= step.place < last, "the original needs no trial"
        assert step.place not in {trial.place for trial in made}, "a plan was timed twice"
        made.append(Trial(step.place, measured(step.place), measured(step.place) <= LIMIT))
        history.append(made[-1])


@st.composite
def ladders(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Predicted costs that rise but for the first's, and measured ones in any order."""
    count = draw(st.integers(2, 60))
    first, *others = draw(st.lists(COSTS, min_size=count, max_size=count))
    return [first, *sorted(others)], draw(st.lists(COSTS, min_size=count, max_size=count))


@settings(max_examples=300, deadline=None)
@given(ladders(), st.integers(1, 8), st.booleans())
def test_whatever_is_measured(drawn: tuple[list[float], list[float]], trials: int, original: bool) -> None:
    """Few measurements, the first of the fastest plan; the safest that is within is taken, if one is."""
    costs, measured = drawn
    end, made = play(costs, measured.__getitem__, trials, original=original)
    assert 1 <= len(made) <= trials
    assert made[0].place == 0
    assert end.best in made
    assert end.found == end.best.within == any(trial.within for trial in made)
    if end.found:
        assert end.best.place == max(trial.place for trial in made if trial.within)
    else:
        assert end.best.loss == min(trial.loss for trial in made)


@settings(max_examples=300, deadline=None)
@given(st.lists(COSTS, min_size=2, max_size=60), st.integers(1, 8))
def test_if_the_cost_rises_along_the_front_a_plan_is_found_where_there_is_one(drawn: list[float], trials: int) -> None:
    measured = sorted(drawn)
    end, made = play(list(range(1, len(measured) + 1)), measured.__getitem__, trials)
    within = [place for place, cost in enumerate(measured[:-1]) if cost <= LIMIT]
    assert end.found == bool(within)
    if end.found:
        assert end.best.place <= within[-1]
    if len(made) < trials and end.found:
        assert end.best.place == within[-1], "stopped early though a safer plan is within"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(0.05, 20), min_size=2, max_size=48, unique=True), st.floats(0.3, 3.0), st.floats(0, 0.3))
def test_where_the_prediction_is_off_by_a_factor_and_a_constant_the_best_is_nearly_found(
    drawn: list[float], factor: float, constant: float
) -> None:
    costs = sorted(drawn)
    measured = [factor * cost + constant for cost in costs]
    end, _ = play(costs, measured.__getitem__)
    within = [place for place, cost in enumerate(measured[:-1]) if cost <= LIMIT]
    if within:
        assert end.found
        assert within[-1] - end.best.place <= 3


@pytest.mark.parametrize("crossing", range(1, 47))
def test_steps_that_no_line_fits_are_halved(crossing: int) -> None:
    end, made = play(list(range(1, 49)), lambda place: 0.5 if place < crossing else 50.0)
    assert end.found
    assert 0 <= crossing - 1 - end.best.place < 12
    assert len(made) <= 6


def test_what_is_predicted_to_be_faster_than_the_fastest_is_the_last_hope() -> None:
    end, made = play([5.0, 1.0, 2.0, 9.0], [3.0, 0.5, 0.7, 4.0].__getitem__)
    assert [trial.place for trial in made][:2] == [0, 1]
    assert end.best.place == 2


def test_with_nothing_but_the_fastest_plan_there_is_nothing_to_try() -> None:
    end, made = play([1.0, 2.0], [0.9, 5.0].__getitem__)
    assert (end.best.place, end.found, len(made)) == (0, True, 1)
    end, made = play([1.0, 2.0], [1.1, 5.0].__getitem__)
    assert (end.best.place, end.found, len(made)) == (0, False, 1)
