"""ONNX Runtime behind the Target protocol: what it offers, what it opens, and what it says that it ran."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from builders import CASES, CHANNELS, FEATURES, Net, conv_bn_relu, features, gemm, images, pooled_classifier
from conversion import TARGET, converted, offered, precisions, refusal, rewritten, run
from fewbits.errors import DataError, ModelError, UsageError
from fewbits.formats.scheme import FP32, INT8_PAIR, INT8_STATIC
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.targets import open_target
from fewbits.targets.onnxruntime import OnnxRuntime
from fewbits.targets.onnxruntime_readback import precision, readback
from odd_models import ODD, finish, in_type

F = TensorProto.FLOAT


def test_the_target_names_itself() -> None:
    target = open_target("auto", 1)
    assert isinstance(target, OnnxRuntime)
    assert open_target(target.name, 1) == target
    assert "onnxruntime" in target.machine.versions


def test_products_get_a_scale_per_channel_joints_one() -> None:
    schemes = offered(open_model(CASES["transformer"].model(0)))
    model = open_model(CASES["transformer"].model(0))
    for one in group(model.graph):
        if one.name in schemes:
            assert schemes[one.name] == (INT8_STATIC if one.weight else INT8_PAIR)
            assert TARGET.menu(model.graph, one).schemes[0] == FP32
            assert not any(refusal.scheme.is_static for refusal in TARGET.menu(model.graph, one).refusals)


def _vector_first() -> onnx.ModelProto:
    net = Net()
    return net.model({"x": (F, ("b", 8, 4))}, {"y": (net.add("MatMul", net.weight(8), "x"), ("b", 4))})


def _vector() -> onnx.ModelProto:
    net = Net()
    return net.model({"x": (F, (FEATURES,))}, {"y": (net.linear("x", FEATURES, 4), (4,))})


def _computed_weight() -> onnx.ModelProto:
    net = Net()
    weight = net.add("Reshape", net.add("ReduceMean", "x", net.axes(0)), net.axes(3, 1, 8, 8))
    return finish(net, net.add("Neg", net.add("Conv", "x", weight, group=3)))


def _computed_bias() -> onnx.ModelProto:
    net = Net()
    bias = net.add("ReduceMean", "x", net.axes(0), keepdims=0)
    return finish(net, net.add("Gemm", "x", net.weight(FEATURES, FEATURES), bias), x=("b", FEATURES))


def _gemm(*bias: int, **attributes: float) -> onnx.ModelProto:
    net = Net()
    inputs = ["x", net.weight(FEATURES, FEATURES), *([net.small(*bias)] if bias else [])]
    return finish(net, net.add("Gemm", *inputs, **attributes), x=(FEATURES, FEATURES))


def _last_convolution() -> onnx.ModelProto:
    net = Net()
    return finish(net, net.conv("x", 3, CHANNELS))


@pytest.mark.parametrize(
    ("proto", "name", "said"),
    [
        (_vector_first(), "matmul_0", "ranks of what it multiplies"),
        (_vector(), "matmul_0", "rank of its input"),
        (_computed_weight(), "conv_2", "weight is computed"),
        (_computed_bias(), "gemm_1", "bias is computed"),
        (_gemm(FEATURES, FEATURES), "gemm_0", "bias is a matrix"),
        (_last_convolution(), "conv_0", "its output is the model's"),
        (ODD["conv read twice"].model(), "mul_2", "its output is the model's"),
        (ODD["dilated pool between codes"].model(), "averagepool_2", "dilation"),
        (ODD["mask of -inf added"].model(), "add_11", "infinite"),
        (in_type(gemm(), np.float16), "gemm_0", "float16"),
        (in_type(gemm(), np.float64), "gemm_0", "float64"),
    ],
)
def test_refusals_carry_their_reason(proto: onnx.ModelProto, name: str, said: str) -> None:
    assert said in refusal(proto, name)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_models_of_other_types_are_read_and_run(dtype: type[np.floating]) -> None:
    proto = in_type(gemm(), dtype)
    model = open_model(proto)
    assert not offered(model)
    assert all(refusal(proto, one.name) for one in group(model.graph))
    assert run(model.original(), {"x": features(2)["x"].astype(dtype)})["y"].dtype == dtype


def test_models_that_it_does_not_load() -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].op_type, proto.graph.node[1].domain = "Sparkle", "my.company"
        proto.opset_import.append(helper.make_opsetid("my.company", 1))

    with pytest.raises(ModelError, match=r"ONNX Runtime .* does not load the model: .*Sparkle"):
        TARGET.open(Artifact(rewritten(gemm(), change).SerializeToString()))
    with pytest.raises(ModelError, match="does not load"):
        TARGET.open(Artifact(b"no model"))


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.zeros((2, FEATURES + 1), np.float32)},
        {"x": np.zeros((2, 3, FEATURES), np.float32)},
        {"x": np.zeros((2, FEATURES), np.float64)},
        {"x": np.zeros((2, FEATURES), np.float32), "z": np.zeros(2, np.float32)},
        {},
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, np.ndarray]) -> None:
    with TARGET.open(Artifact(gemm().SerializeToString())) as session, pytest.raises(DataError, match="does not run"):
        session(inputs)


def test_more_threads_than_cores() -> None:
    with pytest.raises(UsageError):
        OnnxRuntime.of(100_000)


def test_every_node_is_read_back() -> None:
    proto, inputs = pooled_classifier(), images(8)
    model, plan, artifact = converted(proto, inputs)
    executed = TARGET.executed(artifact, inputs, 5)
    assert [one.kernel for one in executed][-1] in ("com.microsoft.QGemm", "com.microsoft.QLinearMatMul")
    assert executed[-1].outputs == ("logits",)
    assert executed[0].precision == "boundary"
    assert all(one.seconds > 0 for one in executed)
    assert plan.low == {name for name, ran in precisions(model, artifact, inputs).items() if ran == "int8"}
    floats = TARGET.executed(model.original(), inputs, 5)
    assert {one.precision for one in floats} == {"fp32"}


def test_a_concat_of_codes_is_int8() -> None:
    case = CASES["concat_of_convs"]
    model, _, artifact = converted(case.model(0), case.inputs(4, 0))
    assert precisions(model, artifact, case.inputs(4, 0))["concat_2"] == "int8"


def test_subgraphs_do_not_mix_with_the_graph_around_them() -> None:
    odd = ODD["subgraphs"]
    proto, inputs = odd.model(), odd.inputs(4)
    executed = TARGET.executed(Artifact(proto.SerializeToString()), inputs, 6)
    assert [one.kernel for one in executed] == ["Gemm", "Gemm", "Gemm", "Loop", "ReduceSum", "Greater", "If", "Gemm"]
    assert all(one.seconds > 0 for one in executed)
    kinds = {one.kernel: one.precision for one in executed}
    assert (kinds["Gemm"], kinds["Loop"], kinds["Greater"]) == ("fp32", "fp32", "fp32")


def test_events_of_subgraphs_count_for_the_node_that_runs_them(tmp_path: Path) -> None:
    def event(op: str, index: int, start: int, duration: int) -> dict[str, object]:
        types = [{"float": [2, 2]}]
        arguments = {"op_name": op, "node_index": str(index), "input_type_shape": types}
        return {"cat": "Node", "name": f"{op}_kernel_time", "ts": start, "dur": duration, "args": arguments}

    # A Loop whose body, twice, is an Add of the same index as the Loop's neighbour; then the same call again.
    call = [(0, "Add", 0, 5), (6, "Add", 0, 90), (96, "Add", 0, 90), (5, "Loop", 1, 200), (206, "Neg", 2, 7)]
    events = [event(op, index, start + 1000 * one, duration) for one in range(4) for start, op, index, duration in call]
    profile, optimised = tmp_path / "profile.json", tmp_path / "optimised.onnx"
    profile.write_text(json.dumps([{"cat": "Session", "name": "model_run"}, *events]))
    body = helper.make_graph([], "body", [], [])
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"], name="first"),
        helper.make_node("Loop", ["n", "", "a"], ["b"], body=body),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [])), optimised)
    assert [round(one.seconds * 1e6) for one in readback(optimised, profile)] == [5, 200, 7]


@pytest.mark.parametrize(
    ("op", "types", "expected"),
    [
        ("Conv", ["float", "float"], "fp32"),
        ("QLinearConv", ["uint8", "float", "uint8", "int8"], "int8"),
        ("QLinearConcat", ["float", "uint8", "uint8"], "int8"),
        ("DynamicQuantizeMatMul", ["float", "int8", "float"], "int8"),
        ("Gather", ["float", "int64"], "fp32"),
        ("Where", ["bool", "float", "float"], "fp32"),
        ("MatMul", ["float16", "float16"], "fp16"),
        ("MatMul", ["double", "double"], "fp64"),
        ("Shape", ["int64"], "int64"),
        ("QuantizeLinear", ["float", "float", "uint8"], "boundary"),
        ("DequantizeLinear", ["uint8", "float", "uint8"], "boundary"),
        ("DynamicQuantizeLinear", ["float"], "boundary"),
        ("ConstantOfShape", [], "unknown"),
    ],
)
def test_the_precision_of_a_kernel(op: str, types: list[str], expected: str) -> None:
    assert precision(op, types) == expected


def test_profiling_a_single_call() -> None:
    executed = TARGET.executed(Artifact(conv_bn_relu().SerializeToString()), images(1), 1)
    assert all(one.seconds > 0 for one in executed)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TARGET.executed(Artifact(gemm().SerializeToString()), features(1), 2)
    assert not list(tmp_path.iterdir())
