"""Products whose constant stands first, is a batch of matrices, or meets a transposed operand: int8 on both runtimes.

Other tools refuse them silently, or write models that no runtime loads: scales per column of a batch stop ONNX Runtime
at the first call, and OpenVINO computes something else with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import fewbits
from builders import Array, Net
from conversion import OPENVINO, TARGET, error, offered, planned, precisions, refusal, run
from fewbits.formats.scheme import INT8_DYNAMIC, INT8_DYNAMIC_PAIR, INT8_WEIGHT, integers
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.plan import Choice, Plan
from fewbits.targets.protocol import Target
from timing import Timing


def normal(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    model: Callable[[], onnx.ModelProto]
    inputs: Mapping[str, Array]


def finished(net: Net, y: str, given: tuple[int | str, ...], made: tuple[int | str, ...]) -> onnx.ModelProto:
    return net.model({"x": (TensorProto.FLOAT, given)}, {"y": (y, made)})


def constant_first(rank: int, shift: float = 0.0, then: str = "") -> Callable[[], onnx.ModelProto]:
    """As in the token mixing of an MLP-Mixer; with `shift`, its values are all of one sign."""

    def build() -> onnx.ModelProto:
        net = Net()
        y = net.add("MatMul", net.constant(normal(24, 32) / 8 + np.float32(shift)), "x")
        y = net.add(then, y) if then else y
        batch = ("b",) * (rank - 2)
        return finished(net, y, (*batch, 32, 16), (*batch, 24, 16))

    return build


def batch_of_matrices(bias: bool) -> Callable[[], onnx.ModelProto]:
    """As projections of every head by itself."""

    def build() -> onnx.ModelProto:
        net = Net()
        y = net.add("MatMul", "x", net.constant(normal(4, 32, 24) / 8))
        y = net.add("Add", y, net.small(24)) if bias else y
        return finished(net, y, ("b", 4, 16, 32), ("b", 4, 16, 24))

    return build


def transposed(bias: bool, **attributes: float) -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        net = Net()
        weight = normal(24, 32) / 8 if attributes.get("transB") else normal(32, 24) / 8
        y = net.add("Gemm", "x", net.constant(weight), *([net.small(24)] if bias else []), transA=1, **attributes)
        return finished(net, y, (32, 16), (16, 24))

    return build


CASES = {
    "constant first": Case(constant_first(3), {"x": normal(3, 32, 16)}),
    "constant first, one matrix": Case(constant_first(2), {"x": normal(32, 16)}),
    "positive constant first": Case(constant_first(3, shift=0.5), {"x": normal(3, 32, 16)}),
    "constant first and Relu": Case(constant_first(3, then="Relu"), {"x": normal(3, 32, 16)}),
    "batch of matrices": Case(batch_of_matrices(bias=False), {"x": normal(3, 4, 16, 32)}),
    "batch of matrices and bias": Case(batch_of_matrices(bias=True), {"x": normal(3, 4, 16, 32)}),
    "transA": Case(transposed(bias=False), {"x": normal(32, 16)}),
    "transA and bias": Case(transposed(bias=True), {"x": normal(32, 16)}),
    "transA, transB, factors": Case(transposed(bias=True, transB=1, alpha=0.5, beta=2.0), {"x": normal(32, 16)}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=["onnxruntime", "openvino"])
def test_static_codes_run_as_such_and_are_close(name: str, target: Target) -> None:
    proto, inputs = CASES[name].model(), CASES[name].inputs
    model = open_model(proto)
    plan = planned(model, inputs, target=target)
    assert len(plan.low) == 1
    made = model.converted(plan)
    onnx.checker.check_model(made.content, full_check=True)
    assert set(precisions(model, made, inputs, target).values()) == {"int8"}
    assert error(run(made, inputs, target), run(proto, inputs)) < 0.02


@pytest.mark.parametrize("name", CASES)
def test_ranges_found_at_every_call_run_as_such_and_are_close(name: str) -> None:
    proto, inputs = CASES[name].model(), CASES[name].inputs
    model = open_model(proto)
    (one,) = group(model.graph)
    plan = planned(model, inputs, scheme=INT8_DYNAMIC_PAIR if one.constant else INT8_DYNAMIC)
    assert len(plan.low) == 1
    made = model.converted(plan)
    assert set(precisions(model, made, inputs).values()) == {"int8"}
    assert error(run(made, inputs), run(proto, inputs)) < 0.02


@pytest.mark.parametrize("name", ["constant first", "positive constant first", "batch of matrices", "transA"])
def test_an_emulated_product_rounds_both_operands(name: str) -> None:
    """In 8 bits as close as the runtime's codes, and each bit that is left out costs."""
    proto, inputs = CASES[name].model(), CASES[name].inputs
    model = open_model(proto)
    (one,) = group(model.graph)
    ranges = planned(model, inputs).ranges
    errors = []
    for bits in (8, 6, 4):
        choices = {one.name: Choice(str(integers(bits, bits, channels=bool(one.weight))), "")}
        made = model.converted(Plan(model.sha256, choices, ranges, "simulated:mpic"))
        errors.append(error(run(made, inputs), run(proto, inputs)))
    assert errors[0] < 0.02
    assert errors[0] < errors[1] < errors[2]


def test_a_constant_is_stored_in_codes_alone() -> None:
    for name, bytes_ in (("constant first", 24 * 32), ("batch of matrices", 4 * 32 * 24)):
        model = open_model(CASES[name].model())
        made = model.converted(planned(model, CASES[name].inputs))
        stored = onnx.load_model_from_string(made.content).graph.initializer
        assert max(len(one.raw_data) for one in stored) == bytes_


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("constant first", "its constant is the first operand"),
        ("batch of matrices", "its constant is more than one matrix"),
        ("transA", "its first operand is transposed"),
    ],
)
def test_codes_of_the_weight_alone_are_refused_with_the_reason(name: str, said: str) -> None:
    proto = CASES[name].model()
    (one,) = group(open_model(proto).graph)
    target = OPENVINO
    refusals = target.menu(open_model(proto).graph, one).refusals
    assert [said in each.reason for each in refusals if each.scheme == INT8_WEIGHT] == [True]


def test_a_gemm_with_its_constant_first_is_refused() -> None:
    net = Net()
    y = net.add("Gemm", net.constant(normal(24, 32)), "x")
    proto = finished(net, y, (32, 16), (24, 16))
    assert not offered(open_model(proto))
    assert "first operand" in refusal(proto, "gemm_0")


def test_of_unknown_rank_is_refused() -> None:
    net = Net()
    shape = net.add("Shape", "x")
    y = net.add("MatMul", net.constant(normal(24, 32)), net.add("Reshape", "x", shape))
    proto = finished(net, y, ("b", 32, 16), ("b", 24, 16))
    assert not offered(open_model(proto)) or run(proto, {"x": normal(2, 32, 16)})


def mixed() -> onnx.ModelProto:
    """All of them in one network of 16 x 16."""
    net = Net()
    y = net.add("Relu", net.add("MatMul", net.constant(normal(16, 16) / 4), "x"))
    y = net.add("MatMul", y, net.constant(normal(1, 16, 16) / 4))
    y = net.add("Add", y, "x")
    y = net.add("Reshape", y, net.axes(-1, 16))
    y = net.add("Gemm", y, net.weight(16, 16))
    y = net.add("Reshape", y, net.axes(-1, 16, 16))
    return finished(net, y, ("b", 16, 16), ("b", 16, 16))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "simulated:mpic"])
def test_tuning_takes_them(timed: Timing, target: str) -> None:
    data = {"x": normal(96, 16, 16)}
    result = fewbits.tune(mixed(), data, evaluate="cosine", max_loss=0.2, target=target, threads=1, effort="high")
    assert result.outcome is fewbits.Outcome.MET
    assert result.plan.low >= {"matmul_0", "matmul_2"}
    assert result.record.accuracy is not None and result.record.accuracy.loss.value < 0.2
