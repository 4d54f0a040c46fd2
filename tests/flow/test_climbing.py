"""The ladder: the predicted front, corrected and completed by whole plans that were timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewbits.demo import demo_data, demo_model
from fewbits.flow.calibrate import calibrate
from fewbits.flow.climbing import Climb, climb
from fewbits.flow.floats import Floats
from fewbits.flow.job import Job
from fewbits.flow.looks import Look
from fewbits.plan import Plan
from fewbits.verify.acceptance import Objective
from jobs import opened, priced, site, wishes
from timing import Timing

FLOATS = Floats("onnxruntime:cpu")


def digits(folder: Path, objective: Objective = Objective.LATENCY) -> tuple[Job, Plan]:
    one = priced(opened(demo_model(), demo_data(), objective=objective), folder)
    return one, one.plan(site(one), wishes(one), calibrate(one)["minmax"], "minmax")


def climbed(one: Job, start: Plan, *looks: Look) -> Climb:
    return climb(one, site(one), start, FLOATS, looks)


def test_plans_of_the_front_are_timed_and_have_that_time(timed: Timing, tmp_path: Path) -> None:
    one, start = digits(tmp_path)
    found = climbed(one, start)
    (asked,) = timed.asked
    assert asked[0] == "original"
    assert 2 <= len(asked) - 1 <= 8
    assert found.correction.plans == len(asked)
    # What the made-up benchmark says: 2 ms for the original, half for a plan, and less by the number of quantisers.
    files = list(one.scratch.glob("front_*.onnx"))
    assert len(files) == len(asked) - 1
    measured = {0.002 / (2.0 + file.read_bytes().count(b"QuantizeLinear") / 100) for file in files}
    costs = [rung.cost for rung in found.ladder]
    assert sum(cost in measured for cost in costs) >= 2
    assert costs[-1] == 0.002


def test_the_plans_are_those_of_the_rungs(timed: Timing, tmp_path: Path) -> None:
    one, start = digits(tmp_path)
    found = climbed(one, start)
    assert found.plans[0] is start
    assert not found.plans[-1].low
    assert len(found.plans) == len(found.ladder)
    harms = [rung.harm for rung in found.ladder]
    assert harms == sorted(harms, reverse=True)


def test_a_second_climb_times_nothing_again(timed: Timing, tmp_path: Path) -> None:
    one, start = digits(tmp_path)
    first = climbed(one, start)
    asked = len(timed.asked)
    assert climbed(one, start).ladder == first.ladder
    assert len(timed.asked) == asked


def test_the_size_of_a_file_needs_no_clock(timed: Timing, tmp_path: Path) -> None:
    one, start = digits(tmp_path, Objective.SIZE)
    climbed(one, start)
    assert timed.asked == []


@pytest.mark.parametrize("seconds", [1e-5, 1.0])
def test_a_plan_whose_time_is_known_is_a_rung_if_it_is_on_the_front(
    timed: Timing, tmp_path: Path, seconds: float
) -> None:
    one, start = digits(tmp_path)
    products = sorted(start.low)[:3]
    known = Look("onnxruntime:cpu", {name: str(start.scheme(name)) for name in products}, seconds)
    costs = [rung.cost for rung in climbed(one, start, Look("onnxruntime:cpu", {}, 2e-3), known).ladder]
    assert (seconds in costs) == (seconds < 1e-3)
