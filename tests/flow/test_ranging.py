"""Ranges chosen tensor by tensor never do worse than one method for all, and better where methods are at odds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import builders
import fewbits
from builders import FEATURES, Array, Net
from conversion import error, run
from fewbits.flow.calibrate import calibrate
from fewbits.flow.job import Job, Wish
from fewbits.flow.remedies.ranging import choose_ranges
from fewbits.plan import Plan
from jobs import job, opened, site
from timing import Timing


def at_odds() -> onnx.ModelProto:
    """Two inputs: of one the rare large values matter (they are summed up), of the other they are noise (cut off)."""
    net = Net()
    first = net.linear("x", FEATURES, FEATURES)
    second = net.add("Clip", net.linear("z", FEATURES, FEATURES), net.number(-1.0), net.number(1.0))
    shape = (TensorProto.FLOAT, ("batch", FEATURES))
    return net.model({"x": shape, "z": shape}, {"y": (net.add("Add", first, second), ("batch", FEATURES))})


def rare(samples: int) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    found = {name: rng.standard_normal((samples, FEATURES)).astype(np.float32) for name in ("x", "z")}
    for array in found.values():
        array[rng.random(array.shape) < 0.01] *= 40
    return found


def ready(tmp_path: Path) -> tuple[Job, Plan, dict[str, dict[str, tuple[float, float]]]]:
    one = job(opened(at_odds(), rare(200), calibration_method="auto"), tmp_path)
    ranges = {name: dict(found) for name, found in calibrate(one).items()}
    wishes = {group.name: Wish(site(one).space.coded[group.name], "") for group in one.groups if group.is_product}
    return one, one.plan(site(one), wishes, ranges["minmax"], "minmax"), ranges


def test_it_is_at_least_as_close_as_any_method(tmp_path: Path) -> None:
    one, plan, ranges = ready(tmp_path)
    chosen = choose_ranges(one, plan, ranges)
    inputs = rare(200)
    exact = run(at_odds(), inputs)
    errors = {}
    for name, found in ranges.items():
        same = one.plan(site(one), {g: Wish(plan.scheme(g), "") for g in plan.low}, found, name)
        errors[name] = error(run(one.conversions.of(same), inputs), exact)
    assert error(run(one.conversions.of(chosen), inputs), exact) <= min(errors.values()) * 1.05
    assert chosen.calibration == "minmax, then tensor by tensor"
    assert set(chosen.ranges) == set(plan.ranges)


def test_it_is_done_once_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, plan, ranges = ready(tmp_path)
    first = choose_ranges(one, plan, ranges)
    monkeypatch.setattr("fewbits.flow.remedies.ranging.descend", None)
    assert choose_ranges(one, plan, ranges) == first


def test_with_one_method_there_is_nothing_to_choose(tmp_path: Path) -> None:
    one, plan, ranges = ready(tmp_path)
    assert choose_ranges(one, plan, {"minmax": ranges["minmax"]}) is plan


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_tune_at_every_effort(effort: str, timed: Timing) -> None:
    options = {"evaluate": "cosine", "max_loss": 0.5, "target": "onnxruntime", "threads": 1}
    result = fewbits.tune(builders.gemm(), builders.features(300), effort=effort, **options)
    assert result.record.settings["effort"] == effort
    assert result.plan.low
    assert (effort == "low") <= (not result.plan.means)
    assert ("tensor by tensor" in result.plan.calibration) <= (effort == "high")
