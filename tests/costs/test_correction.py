from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.costs.correction import Correction, Parts, corrected

FACTORS = {"fp32": 0.6, "codes": 1.4, "conversions": 0.3}


def measured(predicted: dict[str, float], factors: dict[str, float] = FACTORS, rest: float = 0.0) -> Parts:
    return Parts(predicted, rest + sum(factors[name] * seconds for name, seconds in predicted.items()))


def plans(count: int, factors: dict[str, float] = FACTORS, rest: float = 0.0) -> list[Parts]:
    """Whose parts have nothing to do with each other."""
    random = Random(3)
    largest = {"fp32": 1e-3, "codes": 4e-4, "conversions": 2e-4}
    return [
        measured({name: random.random() * seconds for name, seconds in largest.items()}, factors, rest)
        for _ in range(count)
    ]


def time(correction: Correction, plan: Parts) -> float:
    return correction.rest + sum(correction.factor(name) * seconds for name, seconds in plan.predicted.items())


@pytest.mark.parametrize("count", [0, 1])
def test_of_fewer_than_two_plans_nothing_is_learnt(count: int) -> None:
    assert corrected(plans(count)) == Correction()
    assert Correction().factor("anything") == 1.0


def test_with_many_plans_the_factors_that_made_them_are_found() -> None:
    """About: every part is drawn to its measured cost, so they stay on the way from 1 to the truth."""
    found = corrected(plans(200))
    for name, truth in FACTORS.items():
        low, high = sorted((1.0, truth))
        assert low - 0.02 <= found.factor(name) <= high + 0.02
        assert found.factor(name) == pytest.approx(truth, abs=0.12)
    assert found.rest == pytest.approx(0, abs=1e-4)
    assert found.plans == 200


def test_a_table_that_is_right_stays_as_it_is() -> None:
    """Whatever the number of plans."""
    for count in (2, 5, 30):
        found = corrected(plans(count, dict.fromkeys(FACTORS, 1.0)))
        assert [found.factor(name) for name in FACTORS] == pytest.approx([1.0, 1.0, 1.0])
        assert found.rest == pytest.approx(0, abs=1e-12)


def test_what_belongs_to_no_group_is_a_constant() -> None:
    found = corrected(plans(200, dict.fromkeys(FACTORS, 1.0), rest=5e-3))
    assert found.rest == pytest.approx(5e-3, rel=0.1)


def test_predictions_come_closer_to_what_was_measured() -> None:
    given = plans(6)
    found = corrected(given)
    before = sum((sum(plan.predicted.values()) - plan.measured) ** 2 for plan in given)
    after = sum((time(found, plan) - plan.measured) ** 2 for plan in given)
    assert after < before / 10


times = st.floats(1e-6, 1e-2)
drawn = st.lists(
    st.tuples(st.dictionaries(st.sampled_from(["fp32", "codes", "bf16", "conversions"]), times), times),
    min_size=2,
    max_size=12,
).map(lambda rows: [Parts(predicted, seconds) for predicted, seconds in rows])


@settings(max_examples=200, deadline=None)
@given(drawn)
def test_whatever_was_measured(given: list[Parts]) -> None:
    """Factors and the rest are never negative, and the squared error never grows."""
    found = corrected(given)
    assert all(factor >= 0 for factor in found.factors.values())
    assert found.rest >= 0
    assert found.plans == len(given)
    assert -1 <= found.before <= 1
    assert -1 <= found.after <= 1
    before = sum((sum(plan.predicted.values()) - plan.measured) ** 2 for plan in given)
    after = sum((time(found, plan) - plan.measured) ** 2 for plan in given)
    assert after <= before * (1 + 1e-6) + 1e-18


@settings(max_examples=100, deadline=None)
@given(drawn, st.floats(1e-3, 1e3))
def test_the_unit_of_time_does_not_matter(given: list[Parts], unit: float) -> None:
    scaled = [
        Parts({name: unit * seconds for name, seconds in plan.predicted.items()}, unit * plan.measured)
        for plan in given
    ]
    one, other = corrected(given), corrected(scaled)
    for plan, same in zip(given, scaled, strict=True):
        assert time(other, same) == pytest.approx(unit * time(one, plan), rel=1e-5, abs=1e-9 * unit)


def test_a_part_that_no_plan_has_keeps_its_measured_cost() -> None:
    """Zero seconds say nothing about a factor."""
    given = [Parts({"fp32": 1e-3, "bf16": 0.0}, 5e-4), Parts({"fp32": 2e-3, "bf16": 0.0}, 1e-3)]
    assert corrected(given).factor("unseen") == 1.0
    assert corrected(given).factor("fp32") == pytest.approx(0.5, abs=0.2)


def test_rank_correlation_says_whether_plans_come_in_the_right_order() -> None:
    right = [Parts({"fp32": seconds}, seconds) for seconds in (1e-3, 2e-3, 3e-3, 4e-3)]
    wrong = [Parts({"fp32": seconds}, 5e-3 - seconds) for seconds in (1e-3, 2e-3, 3e-3, 4e-3)]
    assert corrected(right).before == corrected(right).after == 1
    assert corrected(wrong).before == -1
    assert corrected(right[:2]).before == 1, "of two nothing can be said"


@pytest.mark.parametrize(("cheap", "dear"), list(product([0.2, 0.5], [2.0, 4.0])))
def test_a_scheme_that_the_table_has_too_cheap_is_put_in_its_place(cheap: float, dear: float) -> None:
    """Four plans with ever more groups in codes: predicted ever faster, measured ever slower."""
    shares = (0.0, 0.3, 0.6, 1.0)
    given = [
        Parts({"fp32": 1e-3 * (1 - share), "codes": cheap * 1e-3 * share}, 1e-3 * (1 - share) + dear * 1e-3 * share)
        for share in shares
    ]
    found = corrected(given)
    assert found.before == -1
    assert found.after == 1
    assert found.factor("codes") > 1.5
