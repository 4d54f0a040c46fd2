"""Whole runs for the least memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import builders
import fewbits
from fewbits.demo import demo_calibration, demo_data, demo_model
from fewbits.flow.floats import time_floats
from fewbits.outcome import Outcome
from fewbits.report.text import render
from fewbits.store import read_record
from fewbits.verify.acceptance import Objective
from jobs import job, opened
from timing import Timing, hurry

MIB = 2**20


def tune(**options: object) -> fewbits.Result:
    common = {"calibration": demo_calibration(), "calibration_method": "minmax", "objective": "memory"}
    return fewbits.tune(demo_model(), demo_data(), **{**common, **options})  # type: ignore[arg-type]


def test_less_memory_is_taken_even_where_it_is_slower(timed: Timing, tmp_path: Path) -> None:
    timed.speed = 0.9
    result = tune(threads=1, target="onnxruntime", out=tmp_path / "run")
    record = result.record
    assert result.outcome is Outcome.MET
    assert record.memory is not None
    assert record.memory.savings["tuned"].low > 0
    assert record.memory.peaks["tuned"][0] == 100 * MIB + result.artifact.size
    assert "slower: 0.90x" in record.reason
    text = " ".join(render(record).split())
    assert "peak memory, MiB 100.3 [100.3, 100.3] 100.1 [100.1, 100.1] 0.2 less [0.2, 0.2]" in text
    assert "Memory: made up." in text
    assert read_record(tmp_path / "run") == record


def test_no_less_memory_keeps_the_original(timed: Timing, monkeypatch: pytest.MonkeyPatch) -> None:
    timed.speed = 3.0
    monkeypatch.setattr(Timing, "memory_of", lambda *_: 100 * MIB)
    result = tune(threads=1, target="onnxruntime")
    assert result.outcome is Outcome.KEPT_ORIGINAL
    assert "no less beyond what repeated measurements scatter" in result.record.reason
    assert result.artifact.content == demo_model().read_bytes()


def test_of_the_plans_within_the_budget_the_one_with_the_least_measured_memory_is_taken(timed: Timing) -> None:
    result = tune(threads=1, target="onnxruntime", evaluate="cosine", max_loss="0.0001%")
    held = [names for names in timed.remembered if all(name.startswith("plan ") for name in names)]
    within = [trial for trial in result.record.trials if trial.within]
    assert len(held) == (len(within) > 1)
    assert "weights and activations" in render(result.record)


def test_limits_of_time_and_size_hold_beside_memory(timed: Timing) -> None:
    """A call of the original takes 2 ms here, every plan twice that."""
    timed.speed = 0.5
    size = demo_model().stat().st_size
    loose = tune(threads=1, target="onnxruntime", max_latency="5ms", max_size=size)
    assert loose.outcome is Outcome.MET
    assert "within the allowed 5ms" in loose.record.reason
    assert f"within the allowed {size:,}" in loose.record.reason
    slow = tune(threads=1, target="onnxruntime", max_latency="3ms")
    assert slow.outcome is Outcome.BUDGET_UNREACHABLE
    assert slow.artifact.content == demo_model().read_bytes()
    large = tune(threads=1, target="onnxruntime", max_size=1000)
    assert large.outcome is Outcome.BUDGET_UNREACHABLE
    assert large.artifact.content == demo_model().read_bytes()


def test_the_baseline_is_the_original_where_it_takes_the_least(timed: Timing, tmp_path: Path) -> None:
    timed.memories = {"onnxruntime:*": 30 * MIB}
    one = job(opened(demo_model(), demo_data(), objective=Objective.MEMORY, target="auto"), tmp_path)
    floats = time_floats(one)
    assert floats.fastest == "openvino:cpu"
    assert floats.comparisons == ()
    result = tune(threads=1)
    assert result.target == "openvino:cpu"
    assert "The original takes 130.3 MiB on onnxruntime:cpu, 100.3 MiB on openvino:cpu." in render(result.record)


def wide() -> builders.onnx.ModelProto:
    """Two products whose weights are most of what a process holds."""
    net = builders.Net()
    x = net.linear(net.add("Relu", net.linear("x", 1500, 1500)), 1500, 1500)
    shape = ("batch", 1500)
    return net.model({"x": (1, shape)}, {"y": (net.add("Neg", x), shape)})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_measured_in_real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made up here: what is returned is smaller in every pair of processes, or it is the original."""
    hurry(monkeypatch.setattr)
    data = {"x": np.random.default_rng(0).standard_normal((64, 1500)).astype(np.float32)}
    model = wide().SerializeToString()
    result = fewbits.tune(
        model,
        data,
        objective="memory",
        target="onnxruntime",
        threads=1,
        calibration_method="minmax",
        evaluate="cosine",
        max_loss="5%",
        rules=["*=int8"],
    )
    memory = result.record.memory
    assert memory is not None
    assert {len(taken) for taken in memory.peaks.values()} == {6}
    pairs = list(zip(memory.peaks["original"], memory.peaks["tuned"], strict=True))
    assert (result.outcome is Outcome.MET) == all(before > after for before, after in pairs)
    assert (result.artifact.content == model) == (result.outcome is not Outcome.MET)
