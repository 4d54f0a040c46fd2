"""Bias correction in converted models: the mean of every output channel is what it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import builders
from builders import CHANNELS, FEATURES, Array, Net
from conversion import OPENVINO, TARGET, planned, run, smoothed
from fewbits.errors import PlanError
from fewbits.formats.scheme import INT8_SMOOTHED
from fewbits.grouping import group
from fewbits.means import text
from fewbits.models import open_model
from fewbits.models.protocol import Model
from fewbits.plan import Plan
from fewbits.smoothing import parse
from fewbits.targets.protocol import Target


def positive(inputs: dict[str, Array]) -> dict[str, Array]:
    """Inputs as they stand behind a ReLU: only with a mean there is something to correct. In whole codes, so that what
    is left is the weight's."""
    x = np.rint(np.abs(inputs["x"]) * 64).clip(0, 255)
    x[0].flat[:2] = 0, 255
    return {"x": (x / 255).astype(np.float32)}


def image_layer(groups: int, *, bias: bool) -> onnx.ModelProto:
    net = Net(3)
    weight = net.weight(CHANNELS * groups, 3 // groups, 3, 3, fan_in=27)
    more = [net.small(CHANNELS * groups)] if bias else []
    y = net.add("Conv", "x", weight, *more, group=groups)
    shape = ("batch", CHANNELS * groups, builders.SIZE - 2, builders.SIZE - 2)
    return net.model(
        {"x": (onnx.TensorProto.FLOAT, ("batch", 3, builders.SIZE, builders.SIZE))},
        {"y": (net.add("Mul", y, net.number(1.0)), shape)},
    )


def matrix_layer(op: str, *, bias: bool = True) -> onnx.ModelProto:
    net = Net(3)
    if op == "MatMul":
        y = net.linear("x", FEATURES, 6)
    else:
        weight = net.weight(*((6, FEATURES) if op == "transposed" else (FEATURES, 6)), fan_in=FEATURES)
        y = net.add("Gemm", "x", weight, *([net.small(6)] if bias else []), transB=int(op == "transposed"))
    return builders._feature_model(net, y)


LAYERS = {
    "convolution": (image_layer(1, bias=True), builders.images),
    "convolution without bias": (image_layer(1, bias=False), builders.images),
    "depthwise": (image_layer(3, bias=True), builders.images),
    "product": (matrix_layer("MatMul"), builders.features),
    "gemm": (matrix_layer("plain"), builders.features),
    "gemm, transposed": (matrix_layer("transposed"), builders.features),
    "gemm without bias": (matrix_layer("transposed", bias=False), builders.features),
}


def with_means(model: Model, plan: Plan, inputs: dict[str, Array]) -> Plan:
    (one,) = (one for one in group(model.graph) if one.name in plan.low)
    return replace(plan, means={one.operands[0]: text(inputs["x"].mean(axis=others(inputs["x"])))})


def others(values: Array) -> tuple[int, ...]:
    """The axes besides that of the channels."""
    return (0, 2, 3) if values.ndim == 4 else (0,)


def shift(got: dict[str, Array], wanted: dict[str, Array]) -> float:
    """The root mean square, over channels, of how much their means differ."""
    return float(np.sqrt(np.square((got["y"] - wanted["y"]).mean(axis=others(wanted["y"]))).mean()))


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
@pytest.mark.parametrize("name", LAYERS)
def test_means_of_outputs_are_what_they_were(name: str, target: Target) -> None:
    proto, make = LAYERS[name]
    inputs = positive(make(400))
    model = open_model(proto)
    plan = planned(model, inputs, target=target)
    assert len(plan.low) == 1
    exact = run(proto, inputs)
    before = shift(run(model.converted(plan), inputs, target), exact)
    after = shift(run(model.converted(with_means(model, plan, inputs)), inputs, target), exact)
    assert after < 0.3 * before


def test_a_smoothed_product() -> None:
    inputs = positive(builders.features(400))
    proto = matrix_layer("MatMul")
    model = open_model(proto)
    plan = smoothed(model, planned(model, inputs, scheme=INT8_SMOOTHED), inputs)
    ((tensor, factors),) = plan.smoothing.items()
    means = {f"{tensor}.smoothed": text((inputs["x"] / parse(factors)).mean(axis=0))}
    exact = run(proto, inputs)
    before = shift(run(model.converted(plan), inputs), exact)
    assert shift(run(model.converted(replace(plan, means=means)), inputs), exact) < 0.5 * before


def test_a_bias_that_others_read_is_corrected_for_one_alone() -> None:
    net = Net(3)
    bias = net.small(FEATURES)
    first = net.add("Relu", net.add("Gemm", "x", net.weight(FEATURES, FEATURES, fan_in=FEATURES), bias, transB=1))
    y = net.add("Gemm", first, net.weight(FEATURES, FEATURES, fan_in=FEATURES), bias, transB=1)
    proto = builders._feature_model(net, y, FEATURES)
    model, inputs = open_model(proto), positive(builders.features(50))
    plan = replace(planned(model, inputs), means={"x": text(inputs["x"].mean(axis=0))})
    plain = replace(plan, means={})
    assert model.converted(plan).content != model.converted(plain).content
    onnx.checker.check_model(model.converted(plan).content)


def test_means_of_another_model_are_refused() -> None:
    proto, _ = LAYERS["convolution"]
    model, inputs = open_model(proto), positive(builders.images(4))
    plan = replace(planned(model, inputs), means={"x": text(np.ones(5))})
    with pytest.raises(PlanError, match="means of 5 channels of x, which has 3"):
        model.converted(plan)
