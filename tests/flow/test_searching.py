from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fewbits.demo import demo_data, demo_model
from fewbits.evaluation import Scores
from fewbits.flow.calibrate import calibrate
from fewbits.flow.job import Job
from fewbits.flow.searching import Searched, rank, reverted, search
from fewbits.plan import Plan
from jobs import job, opened

GROUPS = ("stem/conv", "block1/dw/conv", "block1/pw/conv", "block2/dw/conv", "block2/pw/conv", "pool", "classifier")
PRODUCTS = frozenset(GROUPS) - {"pool"}

Make = Callable[..., tuple[Job, Plan]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(max_loss: float = 0.001) -> tuple[Job, Plan]:
        one = job(opened(demo_model(), demo_data(), max_loss=max_loss), tmp_path)
        return one, one.plan(dict.fromkeys(GROUPS, "it pays"), calibrate(one)["minmax"], "minmax")

    return made


def searched(one: Job, start: Plan) -> Searched:
    return search(one, start, Scores(1.0, 0), dict.fromkeys(GROUPS, 1.0))


def test_within_the_budget_at_once_nothing_is_ranked(make: Make) -> None:
    one, start = make(0.1)
    found = searched(one, start)
    assert found.found
    assert found.plan == start
    assert found.harm == {}
    assert [(trial.reverted, trial.within) for trial in found.trials] == [(0, True)]


def test_a_missed_budget_is_met_by_a_plan_between(make: Make) -> None:
    one, start = make(1e-5)
    found = searched(one, start)
    assert found.found
    assert 0 < len(found.plan.low) < len(GROUPS)
    assert set(found.harm) == set(GROUPS)
    assert 1 - found.scores.value <= 1e-5
    assert found.start_groups == len(GROUPS)
    reasons = {choice.reason for name, choice in found.plan.choices.items() if name not in found.plan.low}
    assert reasons <= {"reverted for accuracy", "no neighbour left that computes on integers"}


def test_the_original_is_never_found_and_never_evaluated(make: Make) -> None:
    """Without any product the pool has no neighbour, so a plan with six of seven groups back is the original."""
    one, start = make(0.0)
    assert reverted(one, start, PRODUCTS).low == frozenset()
    found = searched(one, start)
    assert not found.found
    assert found.plan.low
    assert all(trial.loss > 0 and trial.reverted < len(GROUPS) for trial in found.trials)
    assert found.scores.value == max(trial.score for trial in found.trials)


def test_what_was_recorded_is_not_evaluated_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one, start = make(1e-5)
    first = searched(one, start)
    monkeypatch.setattr(type(one.target), "open", lambda *_: pytest.fail("opened again"))
    assert searched(one, start) == first


def test_harm_is_the_error_of_one_group_alone(make: Make) -> None:
    """A depthwise convolution rounds at both ends and in its weights, the pool at its ends alone."""
    one, start = make()
    harm = rank(one, start)
    assert set(harm) == set(GROUPS)
    assert all(0 < value < 1 for value in harm.values())
    assert harm["block1/dw/conv"] > harm["pool"]


def test_reverting_nothing_changes_nothing(make: Make) -> None:
    one, start = make()
    assert reverted(one, start, frozenset()) is start


def test_what_goes_back_has_a_reason_and_what_stays_keeps_its_own(make: Make) -> None:
    one, start = make()
    plan = reverted(one, start, frozenset({"block2/pw/conv"}))
    assert plan.choices["block2/pw/conv"].reason == "reverted for accuracy"
    assert plan.choices["pool"].scheme == "fp32"
    assert plan.choices["pool"].reason == "no neighbour left that computes on integers"
    assert plan.choices["stem/conv"] == start.choices["stem/conv"]
    assert plan.low == frozenset(GROUPS) - {"block2/pw/conv", "pool"}
