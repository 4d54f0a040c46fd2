"""Objectives by their text, the streams that throughput is measured with, and whole runs for throughput."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import builders
import fewbits
from fewbits.costs.correction import Correction
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.errors import UsageError
from fewbits.flow.allocating import Costing
from fewbits.flow.goals.goal import objective_of, streams_of
from fewbits.measurement import Measure
from fewbits.outcome import Outcome
from fewbits.report.text import render
from fewbits.store import read_record
from fewbits.targets import TARGETS
from fewbits.targets.probe import available_cores
from fewbits.verify.acceptance import Objective
from jobs import opened, priced, site
from timing import Timing, hurry

FEW = 3
"""Samples per call, and streams."""


@pytest.mark.parametrize("objective", list(Objective))
def test_every_objective_is_known_by_its_text(objective: Objective) -> None:
    assert objective_of(str(objective)) is objective


def test_energy_points_to_the_model_of_it() -> None:
    with pytest.raises(UsageError, match=r"energy is not measured .* --target simulated:energy"):
        objective_of("energy")
    with pytest.raises(UsageError, match="unknown objective 'beauty'; choose latency or throughput"):
        objective_of("beauty")


def test_streams_are_one_for_each_thread_unless_said() -> None:
    cores = available_cores()
    assert streams_of(Objective.THROUGHPUT, 0, 0) == cores
    assert streams_of(Objective.THROUGHPUT, 0, 1) == 1
    assert streams_of(Objective.THROUGHPUT, FEW, 1) == FEW
    assert streams_of(Objective.LATENCY, 0, 0) == 0


@pytest.mark.parametrize(
    ("objective", "streams", "said"),
    [
        (Objective.LATENCY, 2, "streams are for the objective throughput; latency is measured one call at a time"),
        (Objective.SIZE, 1, "streams are for the objective throughput"),
        (Objective.MEMORY, 1, "streams are for the objective throughput"),
        (Objective.THROUGHPUT, -1, "-1 streams asked for; give 1 or more"),
    ],
)
def test_streams_that_mean_nothing(objective: Objective, streams: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        streams_of(objective, streams, 1)


def test_predicted_seconds_of_a_sample_are_a_call_s_shared_by_all_that_are_in_work(
    timed: Timing, tmp_path: Path
) -> None:
    """What is predicted and what is measured are in the same unit, or whole plans could not correct the table."""
    data = builders.features(70)
    one = priced(opened(builders.mlp_gelu(), data), tmp_path)
    many = priced(opened(builders.mlp_gelu(), data, objective=Objective.THROUGHPUT, batch=FEW, streams=FEW), tmp_path)
    assert (many.threads, many.streams, site(many).target.streams) == (1, FEW, FEW)
    choice = {name: options[-1] for name, options in Costing(one, site(one)).options.items()}
    seconds = [Costing(each, site(each)).seconds(Correction()).value(choice) for each in (one, many)]
    assert seconds[1] == pytest.approx(seconds[0] / FEW**2)


def rows(text: str) -> Mapping[str, str]:
    return {line.split()[0].rstrip(","): line for line in text.splitlines() if line.strip()}


def tune(**options: object) -> fewbits.Result:
    common = {"calibration": demo_calibration(), "calibration_method": "minmax", "objective": "throughput"}
    return fewbits.tune(demo_model(), demo_data(), **{**common, **options})  # type: ignore[arg-type]


def test_a_run_for_throughput_says_samples_per_second(timed: Timing, tmp_path: Path) -> None:
    result = tune(threads=1, streams=FEW, batch=4, out=tmp_path / "run", evaluate="cosine", max_loss="0.0001%")
    record = result.record
    assert record.latency is not None
    assert (record.objective, record.threads, record.streams) == ("throughput", 1, FEW)
    assert record.latency.measure is Measure.THROUGHPUT
    text = render(record)
    shown = rows(text)
    # 2 ms per sample are 500 samples per second; whatever is tuned is twice as fast here.
    assert shown["throughput"].split()[1:3] == ["samples/s", "500"]
    assert "samples/s" in text.split("Predicted front")[1].split("Trials")[0]
    assert "Throughput was measured with inputs of shape image 4x1x8x8" in " ".join(text.split())
    assert "1 thread for 3 streams" in text
    assert "latency" not in text.lower()
    assert read_record(tmp_path / "run") == record


def test_no_gain_in_throughput_keeps_the_original(timed: Timing) -> None:
    timed.speed = 0.9
    result = tune(threads=1, streams=2)
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert result.artifact.content == demo_model().read_bytes()


def test_a_limit_of_size_holds_beside_throughput(timed: Timing) -> None:
    size = demo_model().stat().st_size
    met = tune(threads=1, streams=2, max_size=size - 1)
    assert met.outcome is Outcome.MET
    assert met.artifact.size < size
    assert f"within the allowed {size - 1:,}" in met.record.reason
    assert tune(threads=1, streams=2, max_size=1000).outcome is Outcome.BUDGET_UNREACHABLE


def test_a_resumed_run_has_the_same_streams(timed: Timing, tmp_path: Path) -> None:
    tune(threads=1, streams=2, out=tmp_path / "run")
    with pytest.raises(fewbits.RunError, match="streams: the run has '2', now '3'"):
        tune(threads=1, streams=3, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("target", TARGETS)
def test_throughput_on_a_real_runtime(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made up here: a small model, measured with two streams, is returned with what was measured."""
    hurry(monkeypatch.setattr)
    data = builders.features(90)
    result = fewbits.tune(
        builders.mlp_gelu(),
        data,
        objective="throughput",
        target=target,
        threads=1,
        streams=2,
        batch=8,
        calibration_method="minmax",
        evaluate="cosine",
        max_loss="5%",
        rules=["*=int8"],
    )
    assert result.record.latency is not None
    assert result.record.latency.measure is Measure.THROUGHPUT
    assert "2 streams of 1 thread" in result.record.latency.how
    inputs = {name: array[:5] for name, array in data.items()}
    assert all(np.isfinite(values).all() for values in result.predict(inputs).values())
