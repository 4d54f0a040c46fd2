"""What the project's graph says of an ONNX model."""

from __future__ import annotations

import pytest

from builders import conv_bn_relu, transformer
from fewbits.graph import Graph, Kind
from fewbits.models import open_model
from fewbits.models.onnx_kinds import kind
from fewbits.models.onnx_names import Names
from fewbits.models.onnx_normalise import normalised
from odd_models import ODD


def graph(name: str) -> Graph:
    return open_model(ODD[name].model()).graph


@pytest.mark.parametrize(
    ("domain", "op", "expected"),
    [
        ("", "Conv", Kind.CONV),
        ("ai.onnx", "Relu", Kind.RELU),
        ("com.microsoft", "FastGelu", Kind.GELU),
        ("com.microsoft.nchwc", "Conv", Kind.OTHER),
        ("my.company", "MatMul", Kind.OTHER),
        ("", "Reciprocal", Kind.OTHER),
        ("com.microsoft", "QLinearConcat", Kind.QUANTIZE),
    ],
)
def test_kinds(domain: str, op: str, expected: Kind) -> None:
    assert kind(domain, op) is expected


def test_nodes_and_tensors() -> None:
    found = open_model(conv_bn_relu()).graph
    assert (found.inputs, found.outputs) == (("x",), ("y",))
    conv = found.node["conv_0"]
    assert (conv.kind, conv.op, conv.outputs) == (Kind.CONV, "Conv", ("conv_0_out",))
    assert conv.attributes == {"pads": (1, 1, 1, 1), "kernel_shape": (3, 3), "group": 1}
    assert found.is_constant(conv.inputs[1]) and not found.is_constant("x")
    assert found.tensors["conv_0_out"].shape == ("batch", 8, 8, 8)
    assert found.tensors["conv_0_out"].dtype == "float32"


def test_absent_inputs_are_empty_names() -> None:
    clips = [node for node in graph("clip below and above zero").nodes if node.kind is Kind.CLIP]
    assert clips[1].inputs[1] == "" and clips[1].inputs[2]


def test_what_subgraphs_read_is_pinned() -> None:
    pinned = graph("subgraphs").pinned
    assert {"gemm_1_out", "loop_3_out"} <= pinned
    # Not what they make themselves, although an outer node may have the same name.
    assert not {"product", "next", "state", "gemm_0"} & pinned


@pytest.mark.parametrize("how", ["added", "chosen"])
def test_masks_are_not_finite_until_the_softmax(how: str) -> None:
    found = graph(f"mask of -inf {how}")
    (softmax,) = (node for node in found.nodes if node.kind is Kind.SOFTMAX)
    assert not found.tensors[softmax.inputs[0]].finite
    assert found.tensors[softmax.outputs[0]].finite
    products = [node for node in found.nodes if node.kind is Kind.MATMUL]
    assert all(found.tensors[node.outputs[0]].finite for node in products)


def test_the_lowest_float_is_as_good_as_infinite() -> None:
    found = graph("huge bias")
    (add,) = (node for node in found.nodes if node.kind is Kind.ADD)
    assert not found.tensors[add.outputs[0]].finite
    assert all(tensor.finite for tensor in open_model(transformer()).graph.tensors.values())


def test_new_names_are_new_and_counting_them_is_linear() -> None:
    model = normalised(ODD["product with relu"].model(), "")
    names = Names(model)
    first = [names.node("Neg", [model.graph.inputs[0]], "x", "relu_2") for _ in range(5000)]
    assert len({node.name for node in first}) == len({node.outputs[0].name for node in first}) == 5000
    assert not {node.name for node in first} & {node.name for node in model.graph}
    assert "x" not in {node.outputs[0].name for node in first}
    assert Names(model).node("Neg", [model.graph.inputs[0]], "free", "free").name == "free"


def test_clones_share_their_weights() -> None:
    model = normalised(ODD["product with relu"].model(), "")
    copy = model.clone()
    for name, value in model.graph.initializers.items():
        assert copy.graph.initializers[name].const_value is value.const_value
