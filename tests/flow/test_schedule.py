"""Trial and time limits on whole runs; the clock moves on by a second whenever it is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

import fewbits
from fewbits import Outcome, Result
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.flow.unranked import completed
from fewbits.plan import Choice, Plan
from fewbits.record import RunRecord
from fewbits.report.text import render
from timing import Timing

BETWEEN = 1e-5
"""So small a loss of cosine similarity that int8 everywhere misses it."""
GROUPS = 7


@dataclass
class Told:
    """Progress that remembers what was said."""

    said: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int | None = None) -> None:
        pass

    def advance(self, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)


class Ticking:
    """A second later at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def tune(told: Told | None = None, **options: object) -> Result:
    common: dict[str, object] = {
        "calibration": demo_calibration(), "calibration_method": "minmax", "evaluate": "cosine", "threads": 1,
        "target": "onnxruntime", "max_loss": BETWEEN, "progress": told or Told(),
    }  # fmt: skip
    return fewbits.tune(demo_model(), demo_data(), **{**common, **options})  # type: ignore[arg-type]


@pytest.fixture
def ticking(timed: Timing, monkeypatch: pytest.MonkeyPatch) -> Timing:
    monkeypatch.setattr("fewbits.flow.tuning.perf_counter", Ticking())
    return timed


def whole_time() -> float:
    """Seconds that the clock shows for a run without a limit."""
    return tune().record.seconds


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_no_more_plans_are_evaluated_than_were_allowed(timed: Timing, trials: int) -> None:
    record = tune(max_trials=trials).record
    assert 1 <= len(record.trials) <= trials
    assert record.max_evaluations == trials + 3
    assert record.evaluations <= record.max_evaluations
    assert record.notes == tune(max_trials=trials).record.notes


def test_one_trial_needs_no_ranking(timed: Timing) -> None:
    result = tune(max_trials=1)
    assert result.outcome is Outcome.BUDGET_UNREACHABLE
    assert result.record.front == ()
    assert len(result.record.trials) == 1
    assert result.record.accuracy is not None, "accepted as any other"


def test_the_second_of_two_trials_goes_to_the_safest_plan(timed: Timing) -> None:
    record = tune(max_trials=2).record
    places = [place for place, row in enumerate(record.front) if row.measured]
    assert places == [0, len(record.front) - 2]


def test_the_most_accurate_plan_from_one_evaluation(timed: Timing) -> None:
    record = tune(objective="accuracy", max_loss=None, max_size=demo_model().stat().st_size - 1, max_trials=1).record
    assert len(record.trials) == 1


def test_with_time_enough_nothing_changes(ticking: Timing) -> None:
    free, limited = tune(), tune(max_seconds=10_000)
    assert limited.plan == free.plan
    assert limited.record.trials == free.record.trials
    assert not [note for note in limited.record.notes if "time limit" in note]


def test_a_run_whose_time_is_over_still_accepts_honestly(ticking: Timing) -> None:
    result = tune(max_seconds=0.001)
    record = result.record
    assert len(record.trials) == 1, "the fastest plan is evaluated in any case"
    assert record.front == ()
    assert record.accuracy is not None and record.accuracy.samples == record.splits.acceptance
    assert record.latency is not None
    assert any("For the time limit of 0.001s, 1 of up to 5 plans were evaluated" in note for note in record.notes)
    assert "time limit" in render(record)


def test_the_less_time_the_less_is_done_and_it_is_all_said(ticking: Timing) -> None:
    free = whole_time()
    assert free > 20
    records = [tune(max_seconds=share * free).record for share in (0.05, 0.8, 1.0, 2.0)]
    seconds = [record.seconds for record in records]
    trials = [len(record.trials) for record in records]
    assert seconds == sorted(seconds)
    assert trials[0] == 1 < trials[-1]
    for record in records:
        shortened = len(record.trials) < len(records[-1].trials) or len(_ranked(record)) < GROUPS
        assert not shortened or any("For the time limit of" in note for note in record.notes)
    assert not any("For the time limit of" in note for note in records[-1].notes)


def _ranked(record: RunRecord) -> list[str]:
    return [row.name for row in record.groups if any(one.harm >= 0 for one in row.schemes)]


def test_a_stopped_run_with_a_time_limit_comes_to_the_same_plan(ticking: Timing, tmp_path: Path) -> None:
    limit = 0.8 * whole_time()
    first = tune(max_seconds=limit, out=tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    again = tune(max_seconds=limit, out=tmp_path / "run", resume=True)
    assert again.plan == first.plan
    assert [trial.loss for trial in again.record.trials] == [trial.loss for trial in first.record.trials]
    with pytest.raises(fewbits.RunError, match="time limit"):
        tune(max_seconds=2 * limit, out=tmp_path / "run", resume=True)


def test_what_is_left_is_told_with_its_time(ticking: Timing) -> None:
    told = Told()
    tune(told)
    left = [text for text in told.said if text.startswith("about ")]
    assert any(f"left: ranking {GROUPS - 1} forms, at most 4 evaluations, acceptance" in text for text in left)
    assert any("left: at most 4 evaluations, acceptance" in text for text in left)
    assert left[-1].endswith("left: acceptance")
    assert not any("time limit" in text for text in left)
    free = whole_time()
    for share in (0.8, 0.9, 1.0):
        tune(told, max_seconds=share * free)
    assert any("the time limit will end it earlier" in text for text in told.said)


def test_the_harm_of_what_was_not_ranked_is_that_of_the_median_group() -> None:
    choices = {name: Choice("int8", "") for name in "abc"} | {"d": Choice("fp32", "")}
    start = Plan("0", choices, {})
    text = str(start.scheme("a"))
    harm = {"a": {text: 1.0, "bf16": 0.1}, "b": {text: 3.0}, "d": {}}
    assert completed(harm, start) == {**harm, "c": {text: 1.0}}
    assert completed({}, start) == {name: {text: 1.0} for name in "abc"}
