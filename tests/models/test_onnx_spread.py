"""What stands between bf16 products computes in bf16, too, and nothing that the plan or infinity keeps out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from builders import CASES, CHANNELS, Net, images
from conversion import OPENVINO, error, offered, run
from fewbits.formats.scheme import BF16, FP16, Scheme
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from odd_models import FEATURES, ODD, finish, sequence


def cast(proto: onnx.ModelProto, scheme: Scheme = BF16, *, without: Sequence[str] = ()) -> onnx.ModelProto:
    """`proto` with all that can be, but `without`, in `scheme`."""
    model = open_model(proto)
    low = set(offered(model, OPENVINO, scheme)) - set(without)
    plan = Plan(model.sha256, {name: Choice(str(scheme), "") for name in sorted(low)}, {}, OPENVINO.name)
    made = onnx.load_model_from_string(model.converted(plan).content)
    onnx.checker.check_model(made, full_check=True)
    return made


def types(made: onnx.ModelProto, op: str) -> set[int]:
    """The types that nodes of `op` give."""
    graph = onnx.shape_inference.infer_shapes(made, strict_mode=True).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return {known[node.output[0]] for node in graph.node if node.op_type == op}


def casts(made: onnx.ModelProto) -> int:
    return Counter(node.op_type for node in made.graph.node)["Cast"]


def close(proto: onnx.ModelProto, made: onnx.ModelProto, inputs: dict[str, np.ndarray], bound: float = 0.02) -> bool:
    return error(run(Artifact(made.SerializeToString()), inputs, OPENVINO), run(proto, inputs)) < bound


def between(net: Net, x: str) -> onnx.ModelProto:
    """A convolution of `x`, and the input, as a model."""
    return finish(net, net.conv(x, CHANNELS, CHANNELS))


@pytest.mark.parametrize("op", ["Sigmoid", "Erf", "Softmax", "Neg", "Tanh", "Gelu"])
def test_an_operation_between_two_products(op: str) -> None:
    net = Net()
    proto = between(net, net.add(op, net.add("HardSwish", net.conv("x", 3, CHANNELS))))
    made = cast(proto)
    assert casts(made) == 2
    assert types(made, op) == {TensorProto.BFLOAT16}
    assert close(proto, made, images(4))


def test_a_gelu_spelled_out() -> None:
    case = CASES["mlp_gelu"]
    made = cast(case.model(0))
    assert casts(made) == 2
    assert types(made, "Erf") == types(made, "Div") == {TensorProto.BFLOAT16}
    assert close(case.model(0), made, case.inputs(8, 0))


def test_a_transformer_is_cast_at_its_ends() -> None:
    case = CASES["transformer"]
    made = cast(case.model(0))
    assert types(made, "LayerNormalization") >= {TensorProto.BFLOAT16}
    assert types(made, "Softmax") == {TensorProto.BFLOAT16}
    assert close(case.model(0), made, case.inputs(8, 0))


@pytest.mark.parametrize("op", ["Sigmoid", "Erf", "Softmax", "Neg"])
def test_fp16_has_no_regions(op: str) -> None:
    net = Net()
    proto = between(net, net.add(op, net.add("HardSwish", net.conv("x", 3, CHANNELS))))
    made = cast(proto, FP16)
    assert casts(made) == 4
    assert types(made, op) == {TensorProto.FLOAT}
    assert close(proto, made, images(4), 0.002)


@pytest.mark.parametrize("op", ["Softplus", "Cosh"])
def test_other_operators_stay_float(op: str) -> None:
    net = Net()
    made = cast(between(net, net.add(op, net.add("HardSwish", net.conv("x", 3, CHANNELS)))))
    assert casts(made) == 4
    assert types(made, op) == {TensorProto.FLOAT}


def test_what_also_reads_floats_stays_float() -> None:
    net = Net()
    other = net.add("Cosh", "x")
    proto = finish(net, net.conv(net.add("Sub", net.conv("x", 3, 3), other), 3, CHANNELS))
    made = cast(proto)
    assert types(made, "Sub") == {TensorProto.FLOAT}
    assert close(proto, made, images(4))


def test_outputs_of_the_model_stay_float() -> None:
    net = Net()
    x = net.add("HardSwish", net.conv("x", 3, CHANNELS))
    proto = finish(net, net.add("Tanh", x))
    made = cast(proto)
    assert types(made, "Tanh") == {TensorProto.FLOAT}
    assert casts(made) == 2


def test_a_group_that_the_plan_leaves_in_fp32_stays_there() -> None:
    proto = CASES["residual"].model(0)
    made = cast(proto, without=["add_8"])
    assert types(made, "Add") == {TensorProto.FLOAT}
    assert close(proto, made, images(4))


def test_a_constant_that_bf16_does_not_reach_keeps_its_reader_in_fp32() -> None:
    net = Net()
    x = net.add("HardSwish", net.conv("x", 3, CHANNELS))
    x = net.add("Clip", x, net.number(float(np.finfo(np.float32).min)), net.number(float(np.finfo(np.float32).max)))
    proto = between(net, net.add("Clip", net.add("Tanh", x), net.number(-3.4028235e38), net.number(3.4028235e38)))
    made = cast(proto)
    assert types(made, "Tanh") == {TensorProto.FLOAT}
    assert close(proto, made, images(4))


def attention(keep: NDArray[np.bool_], fill: float) -> onnx.ModelProto:
    """Attention under a mask that is made at run time: `fill` is added where not `keep`."""
    net = Net()
    query, key, value = (net.linear("x", FEATURES, FEATURES) for _ in range(3))
    scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 1]))
    few = net.add("Mul", net.add("ReduceMax", "x", net.axes(0, 1, 2), keepdims=0), net.number(0.0))
    scores = net.add("Add", scores, net.add("Where", net.constant(keep), few, net.number(fill)))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), value)
    return finish(net, net.linear(mixed, FEATURES, FEATURES), x=("batch", 5, FEATURES))


@pytest.mark.parametrize("fill", [-np.inf, float(np.finfo(np.float32).min)])
def test_a_mask_that_is_added_goes_with_the_attention(fill: float) -> None:
    proto = attention(np.tri(5, dtype=np.bool_), fill)
    made = cast(proto)
    assert types(made, "Softmax") == {TensorProto.BFLOAT16}
    assert close(proto, made, sequence(4))


def test_a_row_that_is_masked_as_a_whole_stays_uniform() -> None:
    """The lowest float32, as it is, would be infinite in bf16, and the whole row NaN."""
    proto = attention(np.tri(5, k=-1, dtype=np.bool_), float(np.finfo(np.float32).min))
    got = run(Artifact(cast(proto).SerializeToString()), sequence(4), OPENVINO)
    assert all(np.isfinite(array).all() for array in got.values())
    assert close(proto, cast(proto), sequence(4))


def test_infinite_values_that_are_chosen_stay_out() -> None:
    odd = ODD["mask of -inf chosen"]
    proto = odd.model()
    got = run(Artifact(cast(proto).SerializeToString()), odd.inputs(4), OPENVINO)
    assert all(np.isfinite(array).all() for array in got.values())
    assert close(proto, cast(proto), odd.inputs(4))
