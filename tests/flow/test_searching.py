from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

import builders
from fewbits.demo import demo_data, demo_model
from fewbits.evaluation import Scores
from fewbits.flow import searching
from fewbits.flow.calibrate import calibrate
from fewbits.flow.conversions import plan_key
from fewbits.flow.floats import Floats
from fewbits.flow.job import Job, Wish
from fewbits.flow.looks import Look
from fewbits.flow.searching import Evaluated, Searched, search
from fewbits.formats.scheme import INT8_DYNAMIC
from fewbits.plan import Plan
from fewbits.store import Journal
from fewbits.store.journal import MemoryLines
from fewbits.verify.acceptance import Objective
from jobs import opened, priced, site, wishes
from timing import Timing

GROUPS = ("stem/conv", "block1/dw/conv", "block1/pw/conv", "block2/dw/conv", "block2/pw/conv", "pool", "classifier")
BETWEEN = 2e-5
"""So small a loss of cosine similarity that int8 everywhere misses it, and several plans with fewer groups hold it."""

Make = Callable[..., tuple[Job, Plan]]


def begun(folder: Path, max_loss: float, objective: Objective = Objective.LATENCY) -> tuple[Job, Plan]:
    """The digits with every group in codes."""
    one = priced(opened(demo_model(), demo_data(), max_loss=max_loss, objective=objective), folder)
    return one, one.plan(site(one), wishes(one), calibrate(one)["minmax"], "minmax")


@pytest.fixture
def make(timed: Timing, tmp_path: Path) -> Make:
    return partial(begun, tmp_path)


@dataclass(frozen=True)
class Missed:
    """A search whose start misses the budget."""

    job: Job
    start: Plan
    found: Searched


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Missed]:
    with pytest.MonkeyPatch.context() as patch:
        Timing().install(patch.setattr)
        one, start = begun(tmp_path_factory.mktemp("missed"), BETWEEN)
        yield Missed(one, start, searched(one, start))


def searched(one: Job, start: Plan, looks: Sequence[Look] = ()) -> Searched:
    samples = one.splits.selection.samples
    baseline = Scores(1.0, samples, (1.0,) * samples)
    return search(one, site(one), start, baseline, looks, Floats("onnxruntime:cpu"))


def test_within_the_budget_at_once_nothing_is_ranked(make: Make) -> None:
    one, start = make(0.1)
    found = searched(one, start)
    assert found.found
    assert found.plan == start
    assert found.table.harm == {}
    assert found.front == ()
    assert [(trial.reverted, trial.within) for trial in found.trials] == [(0, True)]


def test_a_plan_that_surely_holds_is_not_read_to_the_end(make: Make) -> None:
    """Nor one that surely fails: `samples` says how far each was read."""
    one, start = make(0.1)
    (trial,) = searched(one, start).trials
    assert 0 < trial.samples < one.splits.selection.samples
    assert trial.samples == searched(one, start).evaluated.samples


def test_a_missed_budget_is_met_by_a_plan_between(missed: Missed) -> None:
    found = missed.found
    assert found.found
    assert 0 < len(found.plan.low) < len(GROUPS)
    assert set(found.table.harm) == set(GROUPS)
    assert found.evaluated.loss <= BETWEEN
    first, *others = found.trials
    assert (first.reverted, first.within) == (0, False)
    assert 1 <= len(others) <= 4
    reasons = {choice.reason for name, choice in found.plan.choices.items() if name not in found.plan.low}
    assert reasons <= {
        "fp32 here is what the accuracy budget buys at the least cost, by the predicted front",
        "no neighbour left that computes on integers",
    }


def test_the_front_runs_from_the_start_to_the_original(missed: Missed) -> None:
    """Harm falls along it, what was evaluated has its loss, and one plan is the chosen one."""
    found = missed.found
    harms = [row.harm for row in found.front]
    assert harms == sorted(harms, reverse=True)
    assert harms[-1] == 0
    assert found.front[0].low == len(GROUPS)
    assert found.front[-1].low == 0
    assert sum(row.measured for row in found.front) == len(found.trials)
    assert {row.loss for row in found.front if row.measured} == {trial.loss for trial in found.trials}
    assert {row.loss for row in found.front if not row.measured} == {-1.0}
    (chosen,) = (row for row in found.front if row.chosen)
    assert chosen.loss == found.evaluated.loss


def test_the_original_is_never_found_and_never_evaluated(make: Make) -> None:
    """Without any product the pool has no neighbour, so a plan with six of seven groups back is the original."""
    one, start = make(0.0)
    found = searched(one, start)
    assert not found.found
    assert found.plan.low
    assert all(trial.loss > 0 and trial.reverted < len(GROUPS) for trial in found.trials)
    assert found.evaluated.loss == min(trial.loss for trial in found.trials)
    assert len(found.trials) > 1, "plans that come to the original do not use up the trials"


def test_no_plan_is_evaluated_twice(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rungs of the front may come to the same plan, when joints lose their neighbours."""
    one, start = make(0.0)
    keys: list[str] = []
    score = searching._score

    def counted(job: Job, plan: Plan, baseline: Scores) -> Evaluated:
        keys.append(plan_key(plan))
        return score(job, plan, baseline)

    monkeypatch.setattr(searching, "_score", counted)
    found = searched(one, start)
    assert len(keys) == len(set(keys)) == len(found.trials)


def test_what_was_recorded_is_not_evaluated_again(missed: Missed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(site(missed.job).target), "open", lambda *_: pytest.fail("opened again"))
    assert searched(missed.job, missed.start) == missed.found


@pytest.mark.parametrize("winner", [0, -1])
def test_the_fastest_end_to_end_of_those_that_hold_wins(
    missed: Missed, timed: Timing, tmp_path: Path, winner: int
) -> None:
    """The front is a prediction; where several plans hold, the clock decides."""
    held = [trial.number for trial in missed.found.trials if trial.within]
    assert len(held) > 1
    timed.speeds = {f"trial {held[winner]}": 3.0}
    # What was evaluated is recorded; only the finals are timed anew.
    steps = {step: text for step, text in missed.job.journal._values.items() if step[0] != "finals"}
    one = replace(missed.job, journal=Journal(MemoryLines(), steps), scratch=tmp_path)
    again = searched(one, missed.start)
    assert again.evaluated.loss == again.trials[held[winner]].loss
    assert timed.asked == [("original", *(f"trial {number}" for number in held))]
    times = {row.loss: row.seconds for row in again.front if row.seconds >= 0}
    assert len(times) == len(held)
    assert min(times, key=lambda loss: times[loss]) == again.evaluated.loss


def test_a_look_is_a_rung_if_all_its_schemes_were_ranked(timed: Timing, tmp_path: Path) -> None:
    """A scheme whose harm nobody knows would pass for harmless."""
    timed.costs = {"codes": 0.5, "dynamic": 2.0, "stored": 3.0}
    model = builders.mlp_gelu()
    one = priced(opened(model, builders.features(120), max_loss=0.0), tmp_path)
    products = [group.name for group in one.groups if group.is_product]
    start = one.plan(site(one), wishes(one, products), calibrate(one)["minmax"], "minmax")
    dynamic = Look("onnxruntime:cpu", dict.fromkeys(products, str(INT8_DYNAMIC)), 4e-4)
    one_left = Look("onnxruntime:cpu", {products[0]: str(start.scheme(products[0]))}, 4e-4)
    elsewhere = Look("openvino:cpu", {products[1]: str(start.scheme(products[1]))}, 4e-4)
    original = Look("onnxruntime:cpu", {}, 9e-4)
    costs = [row.cost for row in searched(one, start, [original, dynamic, one_left, elsewhere]).front]
    assert costs.count(4e-4) == 1


def test_what_was_placed_is_ranked_though_the_table_would_not_have_it(timed: Timing, tmp_path: Path) -> None:
    """Whole models are measured; the table is only a prediction."""
    timed.costs = {"codes": 0.5, "dynamic": 2.0, "stored": 3.0}
    one = priced(opened(builders.mlp_gelu(), builders.features(120), max_loss=0.0), tmp_path)
    products = [group.name for group in one.groups if group.is_product]
    asked = dict.fromkeys(products, Wish(INT8_DYNAMIC, "measured"))
    found = searched(one, one.plan(site(one), asked, calibrate(one)["minmax"], "minmax"))
    assert all(found.table.harm[name][str(INT8_DYNAMIC)].value > 0 for name in products)
    assert found.front[0].harm == pytest.approx(
        sum(found.table.harm[name][str(INT8_DYNAMIC)].value for name in products)
    )


def test_for_the_smallest_file_the_front_is_one_of_bytes(make: Make, timed: Timing) -> None:
    one, start = make(BETWEEN, Objective.SIZE)
    found = searched(one, start)
    sizes: Mapping[int, float] = {row.low: row.cost for row in found.front}
    weights = [one.graph.tensors[group.weight].elements for group in one.groups if group.weight]
    assert sizes[0] == 4 * sum(weights)
    assert sizes[len(GROUPS)] == sum(weights)


@pytest.mark.parametrize("gain", [3.0, 0.5])
def test_a_faster_plan_on_another_runtime_is_tried(timed: Timing, tmp_path: Path, gain: float) -> None:
    """If the plans there do no more harm; the end-to-end race then decides."""
    timed.speeds = {"trial [0-2]": 1.2, "trial *": 1.2 * gain}
    timed.targets = {"openvino:cpu": 1.5}
    one = priced(opened(demo_model(), demo_data(), max_loss=BETWEEN, target="auto"), tmp_path)
    here, there = one.sites
    start = one.plan(here, wishes(one, at=here), calibrate(one)["minmax"], "minmax")
    low = {name: str(scheme) for name, scheme in there.space.coded.items()}
    samples = one.splits.selection.samples
    found = search(
        one, here, start, Scores(1.0, samples, (1.0,) * samples), [Look(there.name, low, 1e-6)], Floats(here.name)
    )
    tried = [trial for trial in found.trials if trial.what == f"a faster plan on {there.name}"]
    assert len(tried) == 1
    assert tried[0].within
    assert (found.plan.target == there.name) == (gain > 1)


def test_a_runtime_that_is_slower_at_best_is_not_looked_into(timed: Timing, tmp_path: Path) -> None:
    one = priced(opened(demo_model(), demo_data(), max_loss=BETWEEN, target="auto"), tmp_path)
    here, there = one.sites
    start = one.plan(here, wishes(one, at=here), calibrate(one)["minmax"], "minmax")
    low = {name: str(scheme) for name, scheme in there.space.coded.items()}
    samples = one.splits.selection.samples
    found = search(
        one, here, start, Scores(1.0, samples, (1.0,) * samples), [Look(there.name, low, 9.0)], Floats(here.name)
    )
    assert found.found
    assert not [trial for trial in found.trials if there.name in trial.what]
