"""SmoothQuant: the function stays, and what int8 loses with channels of very different size is won back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest

from builders import Array, Net
from conversion import OPENVINO, TARGET, error, run
from fewbits.attribution import attribute
from fewbits.errors import PlanError
from fewbits.formats.scheme import INT8_SMOOTHED, INT8_STATIC, INT8_SYMMETRIC_SMOOTHED, Scheme
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from fewbits.smoothing import text
from fewbits.targets.protocol import Target
from odd_models import finish

FEATURES = 32
ROWS = 64
LARGE = (3, 17)
FACTORS = np.where(np.isin(np.arange(FEATURES), LARGE), 16.0, 0.5)


def uneven() -> Array:
    """Rows with two channels that are a hundred times as large as the others."""
    x = np.random.default_rng(1).standard_normal((ROWS, FEATURES)).astype(np.float32)
    x[:, LARGE] *= 100
    return x


def plain(net: Net) -> str:
    return net.linear("x", FEATURES, FEATURES)


def transposed(net: Net) -> str:
    return net.add("Gemm", "x", net.weight(8, FEATURES, fan_in=FEATURES), net.small(8), transB=1)


def behind_a_norm(net: Net) -> str:
    normed = net.add("LayerNormalization", "x", net.positive(FEATURES), net.small(FEATURES), axis=-1)
    return net.linear(normed, FEATURES, FEATURES)


def two_readers(net: Net) -> str:
    return net.add("Add", net.linear("x", FEATURES, FEATURES), net.linear("x", FEATURES, FEATURES))


def norm_with_a_residual(net: Net) -> str:
    normed = net.add("LayerNormalization", "x", net.positive(FEATURES), net.small(FEATURES), axis=-1)
    return net.add("Sub", net.linear(normed, FEATURES, FEATURES), normed)


SHAPES = {one.__name__: one for one in (plain, transposed, behind_a_norm, two_readers, norm_with_a_residual)}


def model(make: Callable[[Net], str]) -> onnx.ModelProto:
    net = Net()
    return finish(net, make(net), x=("rows", FEATURES))


def planned(proto: onnx.ModelProto, scheme: Scheme, target: Target, factors: Mapping[str, str] | None = None) -> Plan:
    """All products in `scheme`, with ranges of what they read, smoothed or not."""
    opened = open_model(proto)
    products = [one for one in group(opened.graph) if one.is_product]
    values: dict[str, Array] = {"x": uneven()}
    for one in products:
        if one.operands[0] != "x":
            values[one.operands[0]] = run(observed(proto, one.operands[0]), {"x": uneven()}, TARGET)["seen"]
    ranges = {name: (float(value.min()), float(value.max())) for name, value in values.items()}
    small = {name: value / FACTORS.astype(np.float32) for name, value in values.items()}
    ranges |= {f"{name}.smoothed": (float(value.min()), float(value.max())) for name, value in small.items()}
    factors = {name: text(FACTORS) for name in values} if factors is None else factors
    choices = {one.name: Choice(str(scheme), "test") for one in products}
    return Plan(opened.sha256, choices, ranges, target.name, smoothing=factors)


def observed(proto: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """`proto` with `tensor` as its only output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.node.append(onnx.helper.make_node("Identity", [tensor], ["seen"]))
    del copy.graph.output[:]
    copy.graph.output.append(onnx.helper.make_tensor_value_info("seen", onnx.TensorProto.FLOAT, None))
    return copy


def loss(proto: onnx.ModelProto, scheme: Scheme, target: Target) -> float:
    made = open_model(proto).converted(planned(proto, scheme, target))
    return error(run(made, {"x": uneven()}, target), run(proto, {"x": uneven()}))


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["plain", "transposed", "two_readers"])
def test_smoothing_wins_back_what_large_channels_cost(name: str, target: Target) -> None:
    """The small channels get finer steps; eight bits of the large ones are enough for both operands."""
    proto = model(SHAPES[name])
    assert loss(proto, INT8_SMOOTHED, target) < 0.5 * loss(proto, INT8_STATIC, target)


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_the_function_stays(name: str, target: Target) -> None:
    """Whatever the factors: eight bits of even channels are never far off."""
    proto = model(SHAPES[name])
    assert loss(proto, INT8_SMOOTHED, target) < 0.05


@pytest.mark.parametrize("scheme", [INT8_SMOOTHED, INT8_SYMMETRIC_SMOOTHED])
def test_it_runs_on_integers(scheme: Scheme) -> None:
    proto = model(plain)
    opened = open_model(proto)
    for target in (TARGET, OPENVINO) if scheme == INT8_SMOOTHED else (OPENVINO,):
        made = opened.converted(planned(proto, scheme, target))
        ran = attribute(opened.graph, group(opened.graph), target.executed(made, {"x": uneven()}, 2))
        assert {share.precision for share in ran.values()} == {"int8"}


def operators(artifact: Artifact) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(artifact.content).graph.node]


def test_a_norm_that_nobody_else_reads_does_the_division() -> None:
    proto = model(behind_a_norm)
    assert "Mul" not in operators(open_model(proto).converted(planned(proto, INT8_SMOOTHED, OPENVINO)))


def test_a_norm_with_other_readers_stays_as_it_is() -> None:
    proto = model(norm_with_a_residual)
    made = open_model(proto).converted(planned(proto, INT8_SMOOTHED, OPENVINO))
    assert operators(made).count("Mul") == 1


def test_products_of_one_tensor_share_its_division() -> None:
    proto = model(two_readers)
    made = open_model(proto).converted(planned(proto, INT8_SMOOTHED, OPENVINO))
    assert operators(made).count("Mul") == 1


def test_a_product_that_is_not_smoothed_reads_the_tensor_as_it_is() -> None:
    proto = model(two_readers)
    plan = planned(proto, INT8_SMOOTHED, OPENVINO)
    first, *_ = plan.choices
    mixed = Plan(plan.model_sha256, {first: plan.choices[first]}, plan.ranges, plan.target, smoothing=plan.smoothing)
    got = run(open_model(proto).converted(mixed), {"x": uneven()}, OPENVINO)
    assert error(got, run(proto, {"x": uneven()})) < 0.05


def test_factors_that_are_missing_or_of_another_model_are_refused() -> None:
    proto = model(plain)
    opened = open_model(proto)
    with pytest.raises(PlanError, match="no factors to smooth the tensor x"):
        opened.converted(planned(proto, INT8_SMOOTHED, OPENVINO, {}))
    with pytest.raises(PlanError, match=r"2 factors .* which has 32 channels"):
        opened.converted(planned(proto, INT8_SMOOTHED, OPENVINO, {"x": "1 2"}))
