"""MatMul and bias as Gemm: the same values, shapes and names, in float."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from builders import CASES, FEATURES, Net, features, transformer
from conversion import converted, kernels, run
from fewbits.grouping import group
from fewbits.models.onnx_graph import graph_of
from fewbits.models.onnx_lower import MatMulToGemm
from fewbits.models.onnx_normalise import normalised
from fewbits.models.protocol import Artifact
from odd_models import ODD, finish

PRODUCTS = [
    name
    for name in ODD
    if name.startswith(("product", "bias", "relu", "tanh between p", "equal", "huge", "names", "stale", "weight"))
]


def lowered(proto: onnx.ModelProto, *names: str) -> tuple[onnx.ModelProto, MatMulToGemm, bool]:
    model = normalised(proto, "")
    groups = {one.name: one for one in group(graph_of(model)) if not names or one.name in names}
    lower = MatMulToGemm(groups)
    result = lower(model)
    made = ir.to_proto(result.model)
    onnx.checker.check_model(made, full_check=True)
    return made, lower, result.modified


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_values_stay(name: str) -> None:
    odd = ODD[name]
    proto = odd.model()
    made, lower, modified = lowered(proto)
    assert modified
    assert "MatMul" not in Counter(node.op_type for node in made.graph.node)
    got, wanted = run(made, odd.inputs(4)), run(proto, odd.inputs(4))
    assert got.keys() == wanted.keys()
    for key, array in wanted.items():
        assert got[key].shape == array.shape
        assert np.allclose(got[key], array, atol=1e-5, rtol=1e-5)
    # What is new stands for what was there before.
    before = {*graph_of(normalised(proto, "")).tensors}
    assert set(lower.aliases.values()) <= before and not before.intersection(lower.aliases)


@pytest.mark.parametrize("name", ["conv_bn_relu", "gemm_plain", "pooled_classifier"])
def test_models_without_such_products_are_left_alone(name: str) -> None:
    assert lowered(CASES[name].model(0))[2] is False


def test_names_by_which_plans_know_products_stay() -> None:
    proto = ODD["product with relu"].model()
    made, _, _ = lowered(proto)
    names = {node.name: node.op_type for node in made.graph.node}
    assert (names["matmul_0"], names["relu_2"]) == ("Gemm", "Relu")
    assert made.graph.output[0].name == "y0"


def test_only_the_named_are_lowered() -> None:
    made, _, modified = lowered(ODD["relu between products"].model(), "matmul_0")
    assert modified
    assert Counter(node.op_type for node in made.graph.node)["MatMul"] == 1


def test_a_matrix_needs_no_reshape() -> None:
    made, lower, _ = lowered(ODD["product of matrices"].model())
    assert [node.op_type for node in made.graph.node] == ["Gemm"]
    assert not lower.aliases


def test_one_reshape_for_all_that_read_a_tensor_and_one_shape_for_the_model() -> None:
    made, _, _ = lowered(transformer(layers=2))
    ops = Counter(node.op_type for node in made.graph.node)
    # Query, key and value read the same rows: 4 readers of one tensor each per layer, once rows for each of them.
    to_rows = [node for node in made.graph.node if node.name.endswith(".to_rows")]
    assert len(to_rows) == 2 * 4
    # The batch and the sequence are those of the inputs: one Shape tells both.
    assert ops["Shape"] == 1


def test_a_bias_of_rank_above_the_product_is_not_a_bias() -> None:
    proto = ODD["bias that adds an axis"].model()
    made, _, _ = lowered(proto)
    assert Counter(node.op_type for node in made.graph.node) == {"Gemm": 1, "Add": 1}
    assert run(made, features(4))["y0"].shape == (1, 4, 2 * FEATURES)


def test_an_infinite_bias_stays_outside() -> None:
    made, _, _ = lowered(ODD["infinite bias"].model())
    assert Counter(node.op_type for node in made.graph.node)["Add"] == 1


def test_sizes_that_no_input_has_are_read_where_they_are() -> None:
    net = Net()
    pairs = net.add("Concat", net.axes(-1), net.add("Shape", "x", start=0, end=1), net.axes(FEATURES), axis=0)
    x = net.linear(net.add("Reshape", "x", pairs), FEATURES, 3)
    proto = finish(net, net.linear(net.add("Tanh", x), 3, FEATURES), x=("batch", "tokens", FEATURES))
    made, _, _ = lowered(proto)
    inputs = ODD["product of sequences"].inputs(3)
    got, wanted = run(made, inputs)["y0"], run(proto, inputs)["y0"]
    assert got.shape == wanted.shape == (5, 3, FEATURES)
    assert np.allclose(got, wanted, atol=1e-5)


def test_names_that_every_dimension_has_tell_nothing() -> None:
    made, _, _ = lowered(ODD["equal names, other sizes"].model())
    assert Counter(node.op_type for node in made.graph.node)["Shape"] == 2
    same, _, _ = lowered(ODD["equal names, equal sizes"].model())
    assert Counter(node.op_type for node in same.graph.node)["Shape"] == 1


def test_left_as_matmul_and_add_a_known_shape_is_computed_in_float() -> None:
    """Why it is lowered: ONNX Runtime makes a Gemm with a float bias of it, which no int8 kernel takes."""
    known = (1, 8, FEATURES)
    inputs = {"x": np.ones(known, np.float32)}
    net = Net()
    scale, zero = net.constant(np.array(0.02, np.float32)), net.constant(np.array(128, np.uint8))
    read = net.add("DequantizeLinear", net.add("QuantizeLinear", "x", scale, zero), scale, zero)
    codes = net.constant(np.arange(FEATURES * FEATURES).reshape(FEATURES, FEATURES).astype(np.int8))
    scales = net.constant(np.full(FEATURES, 0.01, np.float32))
    weight = net.add("DequantizeLinear", codes, scales, net.constant(np.zeros(FEATURES, np.int8)), axis=1)
    biased = net.add("Add", net.add("MatMul", read, weight), net.constant(np.ones(FEATURES, np.float32)))
    proto = finish(net, net.add("Erf", biased), x=known)
    assert "Gemm" in kernels(Artifact(proto.SerializeToString()), inputs)
    # The same layer through our own conversion.
    net = Net()
    _, plan, artifact = converted(finish(net, net.add("Erf", net.linear("x", FEATURES, FEATURES)), x=known), inputs)
    assert plan.low
    assert "QGemm" in kernels(artifact, inputs)
