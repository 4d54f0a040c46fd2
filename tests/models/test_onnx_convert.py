"""Laws of conversion, over every structure and over random choices of what leaves fp32."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from builders import (
    CASES,
    CHANNELS,
    Array,
    Net,
    conv_bn_relu,
    depthwise_separable,
    images,
    mlp_gelu,
    pooled_classifier,
    transformer,
)
from conversion import converted, error, observed_ranges, offered, planned, precisions, rewritten, run
from fewbits.errors import PlanError
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.plan import Choice, Plan
from odd_models import ODD, Odd, finish

Made = tuple[Callable[[], onnx.ModelProto], Callable[[int], dict[str, Array]], float]


def made(odd: Odd) -> Made:
    return odd.model, odd.inputs, odd.tolerance


ALL: dict[str, Made] = {
    **{
        name: (lambda case=case: case.model(0), lambda samples, case=case: case.inputs(samples, 0), 0.04)
        for name, case in CASES.items()
    },
    **{name: made(odd) for name, odd in ODD.items()},
}


def described(proto: onnx.ModelProto) -> list[tuple[str, bytes]]:
    """Names, types and dimensions of inputs and outputs."""
    values = (*proto.graph.input, *proto.graph.output)
    return [(value.name, value.type.SerializeToString(deterministic=True)) for value in values]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ALL)
def test_a_converted_model_is_the_same_model_in_fewer_bits(name: str, seed: int) -> None:
    build, make, tolerance = ALL[name]
    proto, inputs = build(), make(8)
    model = open_model(proto)
    some = random.Random(seed)
    # First everything, then some of it.
    low = None if seed == 0 else [group for group in offered(model) if some.random() < 0.5]
    plan = planned(model, inputs, low)
    artifact = model.converted(plan)
    result = onnx.load_model_from_string(artifact.content)
    onnx.checker.check_model(result, full_check=True)
    assert described(result) == described(proto)
    assert error(run(artifact, inputs), run(proto, inputs)) < tolerance
    ran = precisions(model, artifact, inputs)
    assert {one.name for one in group(model.graph) if ran.get(one.name) == "int8"} == plan.low
    # A second conversion gives the same bytes: names and order depend on nothing but model and plan.
    assert open_model(proto).converted(plan).content == artifact.content


@pytest.mark.parametrize("name", [name for name in ALL if name != "product, fixed sizes"])
def test_dynamic_dimensions_stay_dynamic(name: str) -> None:
    build, make, tolerance = ALL[name]
    proto = build()
    _, _, artifact = converted(proto, make(8))
    few = {key: array[:3] for key, array in make(8).items()}
    got, wanted = run(artifact, few), run(proto, few)
    assert {key: array.shape for key, array in got.items()} == {key: array.shape for key, array in wanted.items()}
    # Fewer samples than the ranges were made from, and so fewer to divide the same error by.
    assert error(got, wanted) < 1.5 * tolerance


@pytest.mark.parametrize("length", [7, 11])
def test_sequences_of_another_length(length: int) -> None:
    case = CASES["transformer"]
    proto, inputs = transformer(), case.inputs(8, 0)
    _, _, artifact = converted(proto, inputs)
    short = {name: array[:2, :length] for name, array in inputs.items()}
    assert error(run(artifact, short), run(proto, short)) < 0.1


@pytest.mark.parametrize("name", ["transformer", "product of sequences"])
def test_an_empty_batch(name: str) -> None:
    build, make, _ = ALL[name]
    _, _, artifact = converted(build(), make(4))
    none = {key: array[:0] for key, array in make(4).items()}
    assert all(array.shape[0] == 0 for array in run(artifact, none).values())


def test_nothing_low_is_the_original_bit_for_bit() -> None:
    proto = pooled_classifier()
    model = open_model(proto)
    plan = Plan(model.sha256, {one.name: Choice("fp32", "") for one in group(model.graph)}, {})
    assert model.converted(plan).content == proto.SerializeToString()


def test_converting_leaves_the_model_alone() -> None:
    proto, inputs = depthwise_separable(), images(4)
    model = open_model(proto)
    plan = planned(model, inputs)
    graph, first = model.graph, model.converted(plan)
    assert open_model(proto).graph == graph
    # Not folded, lowered or quantised for the next one.
    other = planned(model, inputs, sorted(plan.low)[:1])
    assert model.converted(other).content == open_model(proto).converted(other).content
    assert model.converted(plan).content == first.content


def test_what_an_application_reads_is_kept() -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.metadata_props.add(key="names", value="{0: 'cat'}")
        proto.doc_string, proto.domain, proto.model_version, proto.graph.name = "a text", "org.pets", 7, "pets"

    _, plan, artifact = converted(rewritten(pooled_classifier(), change), images(4))
    result = onnx.load_model_from_string(artifact.content)
    properties = {entry.key: entry.value for entry in result.metadata_props}
    assert properties["names"] == "{0: 'cat'}"
    assert properties["fewbits.plan_for"] == plan.model_sha256
    assert (result.domain, result.model_version, result.graph.name) == ("org.pets", 7, "pets")
    assert result.doc_string == "a text"
    assert result.producer_name == "fewbits"


def test_weights_leave_in_a_quarter_of_their_bytes() -> None:
    proto = mlp_gelu()
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    _, _, artifact = converted(proto, CASES["mlp_gelu"].inputs(4, 0))
    result = onnx.load_model_from_string(artifact.content)
    assert sum(len(tensor.raw_data) for tensor in result.graph.initializer) < 0.45 * weights
    assert not any(tensor.data_type == 1 and len(tensor.dims) == 2 for tensor in result.graph.initializer)


def refused(plan: Callable[[Plan], Plan], name: str = "conv_bn_relu") -> str:
    case = CASES[name]
    model = open_model(case.model(0))
    with pytest.raises(PlanError) as raised:
        model.converted(plan(planned(model, case.inputs(4, 0))))
    return str(raised.value)


def test_plans_that_do_not_fit() -> None:
    int8 = Choice("int8", "by hand")
    assert "another model" in refused(lambda plan: replace(plan, model_sha256="0" * 64))
    assert "not have: nothing" in refused(lambda plan: replace(plan, choices={"nothing": int8}))
    assert "no range for the tensor" in refused(lambda plan: replace(plan, ranges={}))
    # The last convolution writes the model's output.
    said = refused(lambda plan: replace(plan, choices={**plan.choices, "conv_3": int8}))
    assert "conv_3" in said and "its output is the model's" in said and "fp32" in said


@pytest.mark.parametrize("op", ["Softmax", "LayerNormalization", "Erf"])
def test_no_quantiser_stands_around_what_is_not_a_group(op: str) -> None:
    proto, inputs = transformer(), CASES["transformer"].inputs(4, 0)
    model = open_model(proto)
    products = [one.name for one in group(model.graph) if one.is_product and one.weight]
    plan = planned(model, inputs, products)
    result = onnx.load_model_from_string(model.converted(plan).content)
    made_by = {name: node.op_type for node in result.graph.node for name in node.output}
    kernels = [node for node in result.graph.node if node.op_type == op]
    assert kernels
    assert not any(made_by.get(name) == "DequantizeLinear" for node in kernels for name in node.input)


def test_the_classifier_keeps_float_outputs() -> None:
    proto, inputs = pooled_classifier(), images(8)
    model, plan, artifact = converted(proto, inputs)
    result = onnx.load_model_from_string(artifact.content)
    (last,) = (node for node in result.graph.node if "logits" in node.output)
    assert last.op_type == "Gemm" and last.name in plan.low
    assert precisions(model, artifact, inputs)[last.name] == "int8"
    # Floats: more values than codes could show.
    logits = run(artifact, images(64))["logits"]
    assert len(np.unique(logits)) > 256


def test_one_scale_across_a_concat() -> None:
    case = CASES["concat_of_convs"]
    _, _, artifact = converted(case.model(0), case.inputs(8, 0))
    result = onnx.load_model_from_string(artifact.content)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    makers = {name: node for node in result.graph.node for name in node.output}
    readers = {name: node for node in result.graph.node for name in node.input}
    (concat,) = (node for node in result.graph.node if node.op_type == "Concat")
    pairs = [*(makers[name] for name in concat.input), readers[concat.output[0]]]
    parameters = {tuple(float(values[name]) for name in pair.input[1:]) for pair in pairs}
    assert len(parameters) == 1


@pytest.mark.parametrize("op", ["MaxPool", "Reshape", "Transpose", "Slice"])
def test_carriers_pass_the_scale_through(op: str) -> None:
    net = Net()
    x = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    match op:
        case "MaxPool":
            y = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        case "Reshape":
            y = net.add("Reshape", x, net.axes(0, CHANNELS, 4, 16))
        case "Transpose":
            y = net.add("Transpose", x, perm=[0, 1, 3, 2])
        case _:
            y = net.add("Slice", x, net.axes(1), net.axes(6), net.axes(2))
    proto = finish(net, net.add("Neg", net.conv(y, CHANNELS, CHANNELS)))
    _, plan, artifact = converted(proto, images(8))
    assert len(plan.low) == 2
    result = onnx.load_model_from_string(artifact.content)
    makers = {name: node for node in result.graph.node for name in node.output}
    (carrier,) = (node for node in result.graph.node if node.op_type == op)
    (reader,) = (node for node in result.graph.node if carrier.output[0] in node.input)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    before, behind = makers[carrier.input[0]], reader
    assert (before.op_type, behind.op_type) == ("DequantizeLinear", "QuantizeLinear")
    for one, other in zip(before.input[1:], behind.input[1:], strict=True):
        assert values[one] == values[other]


def test_ranges_may_come_from_elsewhere() -> None:
    proto, inputs = conv_bn_relu(), images(8)
    model = open_model(proto)
    plan = planned(model, inputs)
    wide = {name: (4 * low, 4 * high) for name, (low, high) in observed_ranges(model, inputs).items()}
    reference = run(proto, inputs)
    coarse = error(run(model.converted(replace(plan, ranges=wide)), inputs), reference)
    fine = error(run(model.converted(plan), inputs), reference)
    assert 2 * fine < coarse < 8 * fine
