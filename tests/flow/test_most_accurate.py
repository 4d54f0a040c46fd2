"""The least loss within limits, on whole runs with made-up seconds: a call takes 0.1 ms less per integer kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import fewbits
from fewbits import Outcome, Result
from fewbits.benchmark import Candidate
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.limits import Limits
from fewbits.record import RunRecord
from fewbits.report.text import render
from timing import Timing

SLOWEST = 2e-3
"""Seconds of the original."""
GROUPS = 7


def seconds(candidate: Candidate) -> float:
    """By how many tensors carry codes, so that the file alone tells."""
    graph = onnx.load(candidate.model).graph
    return SLOWEST - 1e-4 * sum(node.op_type == "QuantizeLinear" for node in graph.node)


@pytest.fixture
def clockwork(timed: Timing) -> Timing:
    timed.seconds = seconds
    return timed


Tune = Callable[..., Result]


def tune(**options: object) -> Result:
    common: dict[str, object] = {
        "calibration": demo_calibration(), "calibration_method": "minmax", "evaluate": "cosine", "threads": 1,
        "target": "onnxruntime",
    }  # fmt: skip
    return fewbits.tune(demo_model(), demo_data(), **{**common, **options})  # type: ignore[arg-type]


def measured(result: Result, folder: Path) -> float:
    file = folder / "file.onnx"
    file.write_bytes(result.artifact.content)
    return seconds(Candidate("any", file, "onnxruntime:cpu"))


def fastest(folder: Path) -> float:
    """What the fastest plan takes."""
    return measured(tune(max_loss="50%"), folder)


def test_the_most_accurate_plan_within_a_latency_is_found(clockwork: Timing, tmp_path: Path) -> None:
    least = fastest(tmp_path)
    limit = (least + SLOWEST) / 2
    result = tune(objective="accuracy", max_latency=limit, out=tmp_path / "run")
    record = result.record
    assert result.outcome is Outcome.MET
    assert least < measured(result, tmp_path) <= limit
    assert 0 < len(result.plan.low) < GROUPS
    assert record.limits == Limits(limit)
    assert record.accuracy is not None
    assert "The original takes 2 ms" in record.reason
    # Of what was evaluated it loses least, and all of that was within the limit.
    assert all(trial.within for trial in record.trials)
    (chosen,) = (row for row in record.front if row.chosen)
    assert chosen.loss == min(trial.loss for trial in record.trials)
    assert all(row.seconds <= limit for row in record.front if row.measured)
    # All samples are read: a plan that is surely good enough is not yet the best.
    assert {trial.samples for trial in record.trials} == {record.splits.selection}
    assert len(record.trials) <= 3
    # It loses less than the fastest.
    assert record.accuracy.loss.value < tune(max_loss="50%").record.accuracy.loss.value  # type: ignore[union-attr]
    assert RunRecord.from_json(record.to_json()) == record
    assert "limits" in render(record)
    assert "allowed loss any" in render(record)


def test_more_time_buys_no_less_accuracy(clockwork: Timing, tmp_path: Path) -> None:
    least = fastest(tmp_path)
    limits = [least + share * (SLOWEST - least) for share in (0.0, 0.4, 0.8)]
    results = [tune(objective="accuracy", max_latency=limit) for limit in limits]
    losses = [min(trial.loss for trial in result.record.trials) for result in results]
    assert [result.outcome for result in results] == [Outcome.MET] * 3
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_an_original_within_the_limits_comes_back_without_a_search(clockwork: Timing, tmp_path: Path) -> None:
    result = tune(objective="accuracy", max_latency="2.5ms", max_size="1MB", out=tmp_path / "run")
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert result.artifact.content == demo_model().read_bytes()
    assert "Nothing can be more accurate" in result.record.reason
    assert "within the allowed 2.5ms" in result.record.reason
    assert result.record.evaluations == 1
    assert not clockwork.priced, "nothing was probed for it"
    assert not result.plan.low


def test_a_limit_below_the_fastest_plan_cannot_be_reached(clockwork: Timing, tmp_path: Path) -> None:
    result = tune(objective="accuracy", max_latency="1us", out=tmp_path / "run")
    assert result.outcome is Outcome.BUDGET_UNREACHABLE
    assert "none is within the limits (1us per call)" in result.record.reason
    assert "more than the allowed 1us" in result.record.reason
    assert result.best is not None and result.best_plan is not None
    assert len(result.best_plan.low) == GROUPS, "the closest is the fastest"
    assert result.artifact.content == demo_model().read_bytes()


def test_a_size_alone_is_kept_to_the_byte(clockwork: Timing) -> None:
    smallest = tune(objective="size", max_loss="50%").artifact.size
    original = demo_model().stat().st_size
    limit = (smallest + original) // 2
    result = tune(objective="accuracy", max_size=limit)
    assert result.outcome is Outcome.MET
    assert result.artifact.size <= limit
    assert f"{result.artifact.size:,} bytes, within the allowed {limit:,}" in result.record.reason
    tighter = tune(objective="accuracy", max_size=smallest)
    assert tighter.artifact.size <= smallest
    assert min(one.loss for one in tighter.record.trials) >= min(one.loss for one in result.record.trials)
    assert tune(objective="accuracy", max_size=smallest - 1).outcome is Outcome.BUDGET_UNREACHABLE


def test_a_loss_that_is_not_allowed_is_no_answer_to_it(clockwork: Timing, tmp_path: Path) -> None:
    result = tune(objective="accuracy", max_latency=fastest(tmp_path), max_loss=1e-9)
    assert result.outcome is Outcome.BUDGET_UNREACHABLE
    assert "more than the allowed 1e-09" in result.record.reason


def test_the_fastest_that_is_also_small_enough(clockwork: Timing, tmp_path: Path) -> None:
    """int8 everywhere is the smallest; a limit just above it leaves no room for what the accuracy wants in fp32."""
    free = tune(max_loss=2e-5)
    assert free.outcome is Outcome.MET and len(free.plan.low) < GROUPS
    kept = tune(max_loss=2e-5, max_size=free.artifact.size)
    assert kept.outcome is Outcome.MET
    assert kept.artifact.size <= free.artifact.size
    tight = tune(max_loss=2e-5, max_size=tune(max_loss="50%").artifact.size)
    assert tight.outcome is Outcome.BUDGET_UNREACHABLE
    assert tight.record.limits.size is not None
    assert any(not trial.within for trial in tight.record.trials)


def test_the_smallest_that_is_also_fast_enough(clockwork: Timing, tmp_path: Path) -> None:
    limit = (fastest(tmp_path) + SLOWEST) / 2
    result = tune(objective="size", max_loss="50%", max_latency=limit)
    assert result.outcome is Outcome.MET
    assert measured(result, tmp_path) <= limit
    too_fast = tune(objective="size", max_loss="50%", max_latency="1us")
    assert too_fast.outcome is Outcome.BUDGET_UNREACHABLE
    assert "more than the allowed 1us" in too_fast.record.reason


def test_a_model_that_gains_nothing_is_taken_where_the_original_is_too_large(timed: Timing) -> None:
    timed.speed = 0.9
    limit = demo_model().stat().st_size - 1
    without, result = tune(max_loss="50%"), tune(max_loss="50%", max_size=limit)
    assert without.outcome is Outcome.KEPT_ORIGINAL
    assert result.outcome is Outcome.MET
    assert result.artifact.size <= limit
    assert f"more than the allowed {limit:,}" in result.record.reason


def test_where_nothing_can_leave_fp32_a_limit_that_the_original_misses_is_unreachable(clockwork: Timing) -> None:
    result = tune(objective="accuracy", max_latency="1ms", rules=["*=fp32"])
    assert result.outcome is Outcome.BUDGET_UNREACHABLE
    assert "no group of this model can leave fp32" in result.record.reason
    assert "The original takes 2 ms" in result.record.reason
    assert result.best is not None and result.best.content == demo_model().read_bytes()


def test_a_stopped_run_goes_on_and_other_limits_are_another_run(clockwork: Timing, tmp_path: Path) -> None:
    limit = (fastest(tmp_path) + SLOWEST) / 2
    first = tune(objective="accuracy", max_latency=limit, out=tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    clockwork.asked.clear()
    again = tune(objective="accuracy", max_latency=limit, out=tmp_path / "run", resume=True)
    assert again.plan == first.plan
    assert not clockwork.asked, "nothing is timed twice"
    with pytest.raises(fewbits.RunError, match=r"limits: the run has .* per call', now '1ms per call'"):
        tune(objective="accuracy", max_latency="1ms", out=tmp_path / "run", resume=True)
