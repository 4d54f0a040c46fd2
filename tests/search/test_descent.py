from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.search.descent import Descent
from fewbits.search.problem import Attempt, Finished, Rung, Trial

HARMS = st.floats(1e-9, 1e3)
LOSSES = st.floats(0.0, 1e3) | st.just(inf)


def play(harms: Sequence[float], loss_of: Callable[[int], float], budget: float) -> tuple[Finished, list[Trial]]:
    """The strategy against `loss_of(place)`; its end and the trials."""
    strategy = Descent()
    state = strategy.init([Rung({"a": str(place)}, harm, -harm) for place, harm in enumerate(harms)], budget)
    history: list[Trial] = []
    while True:
        step = strategy.propose(state, history)
        if isinstance(step, Finished):
            return step, history
        assert isinstance(step, Attempt)
        assert step.why
        assert step.place not in {trial.place for trial in history}, "a plan was tried twice"
        assert step.place < len(harms) - 1, "the original needs no trial"
        loss = loss_of(step.place)
        history.append(Trial(step.place, loss, loss <= budget))


def falling(values: Sequence[float]) -> list[float]:
    """From the fastest plan to the original, which loses nothing."""
    return [*sorted(values, reverse=True), 0.0]


@st.composite
def ladders(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Harms that fall, and a loss for each place in any order."""
    count = draw(st.integers(1, 60))
    return falling(draw(st.lists(HARMS, min_size=count, max_size=count))), [
        *draw(st.lists(LOSSES, min_size=count, max_size=count)),
        0.0,
    ]


@settings(max_examples=300, deadline=None)
@given(ladders(), st.floats(0.0, 1e3))
def test_whatever_the_losses_are(drawn: tuple[list[float], list[float]], budget: float) -> None:
    """Few trials, the first of the fastest plan; what is found was tried and is within, or nothing tried was."""
    harms, losses = drawn
    end, history = play(harms, losses.__getitem__, budget)
    assert 1 <= len(history) <= Descent().most == 5
    assert history[0].place == 0
    assert end.best in history
    assert end.found == end.best.within == any(trial.within for trial in history)
    if end.found:
        assert end.best.place == min(trial.place for trial in history if trial.within)
    else:
        assert end.best.loss == min(trial.loss for trial in history)


@settings(max_examples=300, deadline=None)
@given(ladders(), st.floats(0.0, 1e3))
def test_if_the_loss_falls_along_the_front_a_plan_is_found_where_there_is_one(
    drawn: tuple[list[float], list[float]], budget: float
) -> None:
    """The last trial goes to the safest plan if nothing else held, so none is missed for want of trials."""
    harms, losses = drawn[0], falling(drawn[1][:-1])
    end, history = play(harms, losses.__getitem__, budget)
    best = next(place for place, loss in enumerate(losses) if loss <= budget)
    assert end.found == (best < len(harms) - 1)
    if end.found:
        assert end.best.place >= best
        # Bracketed: the next faster plan that was tried is not within.
        faster = [trial.place for trial in history if trial.place < end.best.place]
        assert end.best.place == 0 or (faster and max(faster) < best)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-6, 0), min_size=1, max_size=48),
    st.floats(0.3, 1.2),
    st.floats(0.1, 10),
    st.floats(-4, 0),
)
def test_where_the_loss_is_a_power_of_the_harm_the_best_plan_is_nearly_found(
    exponents: list[float], power: float, factor: float, exponent: float
) -> None:
    """A squared error moves a metric about as its root; the power is learnt from the trials."""
    harms = falling([10**one for one in exponents])
    losses = [factor * harm**power for harm in harms]
    budget = 10**exponent
    end, _ = play(harms, losses.__getitem__, budget)
    best = next(place for place, loss in enumerate(losses) if loss <= budget)
    if best < len(harms) - 1:
        assert end.found
        # Plans of one harm lose the same; they do not count as rungs between.
        assert len({losses[place] for place in range(best, end.best.place)}) <= 6


@pytest.mark.parametrize("crossing", range(1, 48))
def test_steps_that_no_power_fits_are_halved(crossing: int) -> None:
    """One group breaks the model: all plans with it lose everything, all others nothing."""
    harms = [2.0**-place for place in range(48)] + [0.0]
    end, history = play(harms, lambda place: 1.0 if place < crossing else 0.0, 0.5)
    assert end.found
    assert end.best.place - crossing < 20
    assert len(history) <= 5


def test_a_model_that_breaks_is_no_reason_to_break() -> None:
    """NaN is an infinite loss, of which no secant can be drawn; the middle of the front is tried next."""
    harms = [1e6, *(10.0**-place for place in range(20)), 0.0]
    end, history = play(harms, lambda place: inf if place < 3 else 0.0, 0.01)
    assert [trial.place for trial in history[:2]] == [0, 10]
    assert end.found


def test_the_fastest_plan_within_ends_it_at_once() -> None:
    end, history = play([1.0, 0.5, 0.0], lambda place: 0.0, 0.1)
    assert (end.best.place, end.found, len(history)) == (0, True, 1)


def test_with_nothing_but_the_fastest_plan_there_is_nothing_to_try() -> None:
    end, history = play([1.0, 0.0], lambda place: 1.0, 0.1)
    assert (end.best.place, end.found, len(history)) == (0, False, 1)


def test_a_budget_of_nothing_is_held_by_a_plan_that_loses_nothing() -> None:
    end, _ = play(falling([10.0**-place for place in range(12)]), lambda place: 0.0 if place > 7 else 0.1, 0.0)
    assert end.found
    assert end.best.loss == 0


def test_the_last_chance_goes_to_the_safest() -> None:
    harms = falling([10.0**-place for place in range(40)])
    _, history = play(harms, lambda place: 1.0, 0.1)
    assert len(history) == 5
    assert history[-1].place == len(harms) - 2


@pytest.mark.parametrize(("power", "place"), [(0.5, 2), (1.0, 1)])
def test_the_first_step_takes_loss_for_that_power_of_harm(power: float, place: int) -> None:
    """Where harm is the loss itself, a tenth of it is a tenth of the loss; where it is squared, a hundredth is."""
    ladder = [Rung({}, harm, -harm) for harm in (100.0, 10.0, 1.0, 0.1, 0.0)]
    strategy = Descent(power=power)
    step = strategy.propose(strategy.init(ladder, 0.125), [Trial(0, 1.0, within=False)])
    assert isinstance(step, Attempt)
    assert step.place == place
