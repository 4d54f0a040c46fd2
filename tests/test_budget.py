"""How much worse the tuned model may be."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.budget import ANY_LOSS, Budget
from fewbits.errors import MetricError, UsageError
from fewbits.evaluation import Direction, Scores

scores = st.floats(-1e6, 1e6)
amounts = st.floats(0, 1e6)
budgets = st.builds(Budget, amounts, st.just(False)) | st.builds(Budget, st.floats(0, 1), st.just(True))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1%", Budget(0.01, relative=True)),
        (" 0.5 % ", Budget(0.005, relative=True)),
        ("7%", Budget(0.07, relative=True)),
        ("100%", Budget(1.0, relative=True)),
        ("0%", Budget(0.0, relative=True)),
        ("0.01", Budget(0.01, relative=False)),
        (0.01, Budget(0.01, relative=False)),
        (2, Budget(2.0, relative=False)),
        (Budget(0.3, relative=True), Budget(0.3, relative=True)),
    ],
)
def test_texts_and_numbers(given: str | float | Budget, expected: Budget) -> None:
    assert Budget.parse(given) == expected


@pytest.mark.parametrize(
    "given", ["", "%", "one", "1%%", "-1%", "-0.1", -0.1, "nan", float("nan"), "inf%", float("inf"), "101%", True, None]
)
def test_refused(given: object) -> None:
    with pytest.raises(UsageError, match=r"allowed loss.*such as 1%"):
        Budget.parse(given)  # type: ignore[arg-type]


@given(budgets)
def test_the_text_form_round_trips(budget: Budget) -> None:
    assert Budget.parse(str(budget)) == budget


def test_the_text_form_is_what_people_write() -> None:
    assert [str(Budget.parse(text)) for text in ("1%", "0.5%", "10%", "0.01")] == ["1%", "0.5%", "10%", "0.01"]


def test_any_loss_is_allowed_but_a_model_that_breaks_is_none() -> None:
    assert Budget.parse("any") == ANY_LOSS == Budget.parse(str(ANY_LOSS))
    assert not ANY_LOSS.is_limit
    assert ANY_LOSS.holds(1e300)
    assert not ANY_LOSS.holds(inf)
    assert not ANY_LOSS.holds(nan)


@given(scores, scores)
def test_the_sign_of_the_loss_turns_with_the_direction(reference: float, candidate: float) -> None:
    budget = Budget(0.01, relative=False)
    higher = budget.loss(reference, candidate, Direction.HIGHER)
    assert higher == -budget.loss(reference, candidate, Direction.LOWER)
    assert (higher > 0) == (candidate < reference)


@given(scores.filter(lambda value: abs(value) > 1e-3), scores)
def test_a_relative_loss_is_positive_where_the_absolute_is(reference: float, candidate: float) -> None:
    relative, absolute = Budget(0.01, relative=True), Budget(0.01, relative=False)
    for direction in Direction:
        plain = absolute.loss(reference, candidate, direction)
        assert relative.loss(reference, candidate, direction) == pytest.approx(plain / abs(reference))


@given(scores, budgets)
def test_an_equal_score_always_holds(score: float, budget: Budget) -> None:
    if score or not budget.relative:
        assert budget.holds(budget.loss(score, score, Direction.HIGHER))


def test_values_and_scores_alike() -> None:
    budget = Budget.parse("1%")
    assert budget.loss(Scores(0.8, 10), Scores(0.72, 10), Direction.HIGHER) == pytest.approx(0.1)
    assert budget.loss(0.8, 0.88, Direction.LOWER) == pytest.approx(0.1)


def test_a_loss_on_the_line_holds_in_spite_of_rounding() -> None:
    budget = Budget.parse(0.1)
    loss = budget.loss(0.9, 0.8, Direction.HIGHER)
    assert loss > 0.1 - 1e-15
    assert budget.holds(loss)
    assert budget.holds(0.1 + 1e-12)
    assert not budget.holds(0.1 + 1e-6)
    assert not budget.holds(float("nan"))
    assert not budget.holds(float("inf"))


def test_a_relative_loss_of_a_zero_score_is_undefined() -> None:
    with pytest.raises(MetricError, match=r"scores 0, so a loss of 1% relative.*undefined.*labels.*--max-loss 0\.01"):
        Budget.parse("1%").loss(0.0, 0.0, Direction.HIGHER)
    assert Budget.parse("0.01").loss(0.0, 0.005, Direction.LOWER) == 0.005
