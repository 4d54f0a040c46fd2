from __future__ import annotations

from pathlib import Path

from fewbits.demo import demo_data, demo_model
from fewbits.flow.floats import Floats, time_floats
from jobs import job, opened
from timing import Timing


def test_one_runtime_needs_no_race(timed: Timing, tmp_path: Path) -> None:
    one = job(opened(demo_model(), demo_data()), tmp_path)
    assert time_floats(one) == Floats("onnxruntime:cpu")
    assert not timed.asked


def test_the_baseline_is_the_fastest_original(timed: Timing, tmp_path: Path) -> None:
    """A model that is only faster than on the slower runtime has gained nothing by its low precision."""
    one = job(opened(demo_model(), demo_data(), target="auto"), tmp_path)
    timed.speeds = {"openvino:cpu": 1.25}
    found = time_floats(one)
    assert found.fastest == "openvino:cpu"
    (comparison,) = found.comparisons
    assert comparison.speedups["openvino:cpu"].value == 1.25
    assert timed.asked == [("onnxruntime:cpu", "openvino:cpu")]
    assert time_floats(one) == found
    assert len(timed.asked) == 1, "timed once"


def test_the_first_runtime_may_be_the_fastest(timed: Timing, tmp_path: Path) -> None:
    one = job(opened(demo_model(), demo_data(), target="auto"), tmp_path)
    timed.speeds = {"openvino:cpu": 0.8}
    assert time_floats(one).fastest == "onnxruntime:cpu"
