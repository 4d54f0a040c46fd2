"""Why groups lose accuracy: in the run's record, in the report, and on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import builders
import fewbits
from builders import FEATURES, Net
from fewbits.flow import Result
from fewbits.record import RunRecord
from fewbits.refine.diagnosis import Cause
from fewbits.report.explain_text import render_explanations
from fewbits.report.text import render
from timing import Timing

LAST = "matmul_15"


def model() -> onnx.ModelProto:
    """Three layers with GELU between them, the last of which reads a few channels that are far larger."""
    net = Net()
    first = net.gelu(net.linear("x", FEATURES, FEATURES))
    gain = np.ones(FEATURES, np.float32)
    gain[3] = 300.0
    large = net.add("Mul", net.gelu(net.linear(first, FEATURES, FEATURES)), net.constant(gain))
    weight = net._random.standard_normal((FEATURES, 6)).astype(np.float32) / gain[:, None]
    last = net.add("MatMul", large, net.constant(weight))
    return net.model({"x": (TensorProto.FLOAT, ("batch", FEATURES))}, {"y": (last, ("batch", 6))})


@pytest.fixture
def result(timed: Timing, tmp_path: Path) -> Result:
    found = fewbits.tune(
        model(),
        builders.features(400),
        evaluate="cosine",
        max_loss=1e-5,
        target="onnxruntime",
        threads=1,
        out=tmp_path / "run",
    )
    assert found.record.front, "without ranking there is nothing to explain"
    return found


def test_the_worst_group_comes_first_with_its_cause(result: Result) -> None:
    first, *others = result.record.explanations
    assert first.group == LAST
    assert first.cause == Cause.OUTLIERS
    assert first.seen["outliers"] > 50
    assert [one.share for one in (first, *others)] == sorted((one.share for one in (first, *others)), reverse=True)
    assert sum(one.share for one in (first, *others)) <= 1 + 1e-9
    assert all(one.result == str(result.plan.scheme(one.group)) for one in (first, *others))


def test_what_was_tried_is_told_with_what_it_bought(result: Result) -> None:
    (smoothing, *_) = [row for row in result.record.explanations[0].remedies if row.remedy == "SmoothQuant"]
    assert smoothing.share < 0.5
    assert smoothing.used == result.plan.scheme(LAST).smoothed
    assert any(row.remedy.startswith("bias correction") for row in result.record.explanations[0].remedies)


def test_it_is_in_the_report_and_survives_the_file(result: Result) -> None:
    text = render(result.record)
    assert "What costs accuracy, and what was done about it" in text
    assert f"Cause: {Cause.OUTLIERS}"[:60] in " ".join(text.split())
    assert RunRecord.from_json(result.record.to_json()) == result.record
    assert max(map(len, text.splitlines())) <= 100


def test_one_group_can_be_asked_for(result: Result) -> None:
    assert render_explanations(result.record, LAST).count("Result:") == 1
    assert "No group with more than its share is called so" in render_explanations(result.record, "nowhere")


@pytest.mark.parametrize(("peak", "told"), [(1e5, True), (65504.0, False)])
def test_what_fp16_does_not_hold_is_told(result: Result, peak: float, told: bool) -> None:
    first = result.record.explanations[0]
    changed = replace(first, seen={**first.seen, "peak": peak})
    text = render_explanations(replace(result.record, explanations=(changed,)))
    assert ("which fp16 does not hold" in " ".join(text.split())) == told


def test_without_ranking_it_says_so(timed: Timing) -> None:
    found = fewbits.tune(
        builders.mlp_gelu(), builders.features(400), evaluate="cosine", max_loss=0.9, target="onnxruntime", threads=1
    )
    assert found.record.explanations == ()
    assert "No group was ranked" in render_explanations(found.record)
    assert "What costs accuracy" not in render(found.record)


@pytest.mark.parametrize("name", ["conv_bn_relu", "squeeze_excite", "transformer", "concat"])
def test_any_structure_can_be_explained(name: str, timed: Timing) -> None:
    case = builders.CASES[name]
    found = fewbits.tune(
        case.model(0), case.inputs(200, 0), evaluate="cosine", max_loss=1e-9, target="onnxruntime", threads=1
    )
    assert found.record.explanations
    for one in found.record.explanations:
        assert one.cause
        assert one.seen
