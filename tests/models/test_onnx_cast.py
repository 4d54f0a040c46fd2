"""Groups in bf16 and fp16: casts at their borders only, small weights, and the values of numpy's own casts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import fewbits
from builders import CASES, CHANNELS, FEATURES, Array, Net, conv_bn_relu, images
from conversion import OPENVINO, TARGET, converted, error, offered, planned, precisions, run
from fewbits.errors import PlanError
from fewbits.formats.scheme import BF16, FP16, Scheme
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from odd_models import ODD, finish

SMALL = {TensorProto.BFLOAT16, TensorProto.FLOAT16}
DTYPES = {BF16: ml_dtypes.bfloat16, FP16: np.float16}


def cast(proto: onnx.ModelProto, scheme: Scheme, *names: str) -> onnx.ModelProto:
    """`proto` with `names`, or all that can be, in `scheme`."""
    model = open_model(proto)
    low = names or tuple(offered(model, OPENVINO, scheme))
    plan = Plan(model.sha256, {name: Choice(str(scheme), "") for name in low}, {}, OPENVINO.name)
    made = onnx.load_model_from_string(model.converted(plan).content)
    onnx.checker.check_model(made, full_check=True)
    return made


def mixed(proto: onnx.ModelProto, schemes: Mapping[str, Scheme]) -> onnx.ModelProto:
    model = open_model(proto)
    plan = Plan(model.sha256, {name: Choice(str(one), "") for name, one in schemes.items()}, {}, OPENVINO.name)
    return onnx.load_model_from_string(model.converted(plan).content)


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def linear(bias: Array | None, weight: Array, shape: Sequence[int | str] = ("batch", FEATURES)) -> onnx.ModelProto:
    net = Net()
    y = net.add("MatMul", "x", net.constant(weight))
    return finish(net, y if bias is None else net.add("Add", y, net.constant(bias)), x=shape)


@pytest.mark.parametrize("scheme", [BF16, FP16])
class TestOneProduct:
    def test_it_has_one_cast_in_and_one_out(self, scheme: Scheme) -> None:
        made = cast(linear(np.ones(7, np.float32), np.ones((FEATURES, 7), np.float32)), scheme)
        assert operators(made) == ["Cast", "MatMul", "Add", "Cast"]
        assert made.graph.node[-1].output[0] == made.graph.output[0].name == "y0"

    def test_its_values_are_those_of_rounded_operands(self, scheme: Scheme) -> None:
        random = np.random.default_rng(3)
        small = scheme.weight
        assert small is not None
        # OpenVINO's own cast to bf16 may be off by a whole unit; what bf16 holds already, it casts exactly.
        x = np.asarray(fewbits.fake_quantize(random.standard_normal((64, FEATURES)).astype(np.float32), small))
        weight = random.standard_normal((FEATURES, 7)).astype(np.float32)
        bias = random.standard_normal(7).astype(np.float32)
        rounded = [np.asarray(fewbits.fake_quantize(one, small)).astype(np.float64) for one in (weight, bias)]
        product = x.astype(np.float64) @ rounded[0]
        wanted = product + rounded[1]
        (got,) = run(Artifact(cast(linear(bias, weight), scheme).SerializeToString()), {"x": x}, OPENVINO).values()
        # Half a unit each for the product and for the sum with the bias, or for both at once where they are fused, or
        # none where the machine computes in fp32; and a little for sums in another order.
        unit = 2.0**-8 if scheme == BF16 else 2.0**-11
        assert (np.abs(got - wanted) <= unit * (np.abs(product) + np.abs(wanted)) + 1e-4).all()
        # Closer to that than to what the weights would give as they were.
        assert error({"y": got}, {"y": wanted}) < 0.9 * error({"y": got}, {"y": x @ weight + bias})

    def test_any_input_is_within_a_unit(self, scheme: Scheme) -> None:
        random = np.random.default_rng(4)
        weight = np.diag(np.arange(1.0, FEATURES + 1)).astype(np.float32)
        x = random.standard_normal((64, FEATURES)).astype(np.float32)
        (got,) = run(Artifact(cast(linear(None, weight), scheme).SerializeToString()), {"x": x}, OPENVINO).values()
        unit = 2.0**-7 if scheme == BF16 else 2.0**-10
        assert (np.abs(got - x @ weight) <= 1.51 * unit * np.abs(x @ weight) + 1e-6).all()

    def test_weights_are_stored_in_two_bytes(self, scheme: Scheme) -> None:
        weight = np.random.default_rng(0).standard_normal((FEATURES, 512)).astype(np.float32)
        made = cast(linear(None, weight), scheme)
        (stored,) = made.graph.initializer
        assert len(stored.raw_data) == 2 * weight.size
        assert len(made.SerializeToString()) < 2 * weight.size + 2000
        assert np.array_equal(numpy_helper.to_array(stored).astype(np.float32), weight.astype(DTYPES[scheme]))

    def test_a_computed_weight_is_cast_where_it_is_made(self, scheme: Scheme) -> None:
        net = Net()
        weight = net.add("Reshape", net.add("ReduceMean", "x", net.axes(0)), net.axes(3, 1, 8, 8))
        proto = finish(net, net.add("Neg", net.add("Conv", "x", weight, group=3)))
        made = cast(proto, scheme)
        assert Counter(operators(made))["Cast"] == 3
        inputs = images(4)
        assert error(run(Artifact(made.SerializeToString()), inputs, OPENVINO), run(proto, inputs)) < 0.02


class TestBorders:
    def test_a_chain_wholly_in_bf16_has_one_cast_in_and_one_out(self) -> None:
        for name in ("conv_bn_relu", "depthwise_separable", "residual", "concat_of_convs", "gemm_plain"):
            made = cast(CASES[name].model(0), BF16)
            assert Counter(operators(made))["Cast"] == 2, name

    def test_activations_belong_to_their_group(self) -> None:
        made = cast(CASES["squeeze_excite"].model(0), BF16)
        # HardSwish, Relu and HardSigmoid compute in bf16 too, so that they fuse.
        assert Counter(operators(made))["Cast"] == 2

    @pytest.mark.parametrize(
        "carriers",
        [
            [("Relu", {})],
            [("Transpose", {"perm": [0, 1, 3, 2]})],
            [("MaxPool", {"kernel_shape": [2, 2]})],
            [("Transpose", {"perm": [0, 1, 3, 2]}), ("Relu", {}), ("Transpose", {"perm": [0, 1, 3, 2]})],
        ],
    )
    def test_what_changes_no_value_lets_them_through(self, carriers: list[tuple[str, dict[str, list[int]]]]) -> None:
        net = Net()
        x = net.add("HardSwish", net.conv("x", 3, CHANNELS))
        for op, attributes in carriers:
            x = net.add(op, x, **attributes)
        proto = finish(net, net.conv(x, CHANNELS, CHANNELS))
        made = cast(proto, BF16)
        assert Counter(operators(made))["Cast"] == 2
        assert error(run(Artifact(made.SerializeToString()), images(4), OPENVINO), run(proto, images(4))) < 0.02

    def test_branches_of_a_reshape(self) -> None:
        net = Net()
        rows = net.add("Reshape", net.conv("x", 3, CHANNELS), net.axes(0, CHANNELS, 8, 8))
        left = net.conv(net.add("Transpose", rows, perm=[0, 1, 3, 2]), CHANNELS, CHANNELS)
        right = net.conv(net.add("Relu", rows), CHANNELS, CHANNELS)
        made = cast(finish(net, left, right), BF16)
        assert Counter(operators(made))["Cast"] == 3

    def test_a_float_reader_beside_a_small_one_gets_floats(self) -> None:
        net = Net()
        x = net.add("HardSwish", net.conv("x", 3, CHANNELS))
        proto = finish(net, net.conv(x, CHANNELS, CHANNELS), net.add("Neg", x))
        made = cast(proto, BF16)
        assert Counter(operators(made))["Cast"] == 3
        assert error(run(Artifact(made.SerializeToString()), images(4), OPENVINO), run(proto, images(4))) < 0.02

    def test_two_small_types_do_not_cancel(self) -> None:
        proto = CASES["gemm_plain"].model(0)
        made = mixed(proto, {"gemm_0": BF16, "gemm_2": FP16})
        assert Counter(operators(made))["Cast"] == 4
        inputs = CASES["gemm_plain"].inputs(8, 0)
        assert error(run(Artifact(made.SerializeToString()), inputs, OPENVINO), run(proto, inputs)) < 0.02

    def test_one_cast_for_all_that_read_a_tensor(self) -> None:
        made = cast(ODD["input read by three"].model(), BF16)
        assert sum(node.op_type == "Cast" and node.input[0] == "x" for node in made.graph.node) == 1

    def test_outputs_in_the_middle_stay_float(self) -> None:
        for name in ("conv is an output too", "operand is an output", "input is an output", "identities", "subgraphs"):
            odd = ODD[name]
            proto, inputs = odd.model(), odd.inputs(4)
            artifact = Artifact(cast(proto, FP16).SerializeToString())
            got, wanted = run(artifact, inputs, OPENVINO), run(proto, inputs)
            assert {key: array.dtype for key, array in got.items()} == {key: a.dtype for key, a in wanted.items()}
            assert error(got, wanted) < 0.005

    def test_casts_of_the_model_itself_are_kept(self) -> None:
        net = Net()
        x = net.conv("x", 3, CHANNELS)
        half = net.add("Cast", x, to=TensorProto.FLOAT16)
        proto = finish(net, net.add("Neg", x), net.add("Cast", half, to=TensorProto.FLOAT))
        # The half is the model's second output now.
        proto.graph.node.pop()
        proto.graph.output[1].name = half
        proto.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT16
        got = run(Artifact(cast(proto, FP16).SerializeToString()), images(2), OPENVINO)
        assert [array.dtype for array in got.values()] == [np.float32, np.float16]
        assert np.array_equal(got[half].astype(np.float32), -got["y0"])


class TestReach:
    def test_a_weight_that_fp16_does_not_reach(self) -> None:
        weight = np.full((FEATURES, 7), 1e5, np.float32)
        with pytest.raises(
            PlanError, match=r"matmul_0 in float16, .*constant_0 reaches 1e\+05.*set it to fp32 or bf16"
        ):
            cast(linear(None, weight), FP16)
        assert operators(cast(linear(None, weight), BF16)) == ["Cast", "MatMul", "Cast"]

    def test_a_bias_that_fp16_does_not_reach(self) -> None:
        with pytest.raises(PlanError, match="constant_1 reaches"):
            cast(linear(np.full(7, -7e4, np.float32), np.ones((FEATURES, 7), np.float32)), FP16)

    @pytest.mark.parametrize("scheme", [BF16, FP16])
    def test_a_clip_without_end_is_one_at_the_end_of_the_format(self, scheme: Scheme) -> None:
        net = Net()
        ends = [net.number(float(np.finfo(np.float32).min)), net.number(float(np.finfo(np.float32).max))]
        proto = finish(net, net.add("Clip", net.conv("x", 3, CHANNELS), *ends))
        made = cast(proto, scheme)
        assert operators(made) == ["Cast", "Conv", "Clip", "Cast"]
        values = [numpy_helper.to_array(one).astype(np.float64) for one in made.graph.initializer]
        assert all(np.isfinite(one).all() for one in values)
        assert error(run(Artifact(made.SerializeToString()), images(4), OPENVINO), run(proto, images(4))) < 0.02


def test_batch_norm_is_folded_before_the_weight_is_rounded() -> None:
    made = cast(conv_bn_relu(), BF16)
    assert operators(made) == ["Cast", "Conv", "Relu", "Conv", "Relu", "Cast"]


def test_casts_stand_beside_codes() -> None:
    case = CASES["residual"]
    model, inputs = open_model(case.model(0)), case.inputs(8, 0)
    plan = planned(model, inputs, ["conv_0", "conv_3"], target=OPENVINO)
    assert plan.low == {"conv_0", "conv_3"}
    both = Plan(model.sha256, {**plan.choices, "conv_6": Choice("bf16", "")}, plan.ranges, OPENVINO.name)
    artifact = model.converted(both)
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    assert error(run(artifact, inputs, OPENVINO), run(case.model(0), inputs)) < 0.04
    ran = precisions(model, artifact, inputs, OPENVINO)
    assert ran["conv_0"] == ran["conv_3"] == "int8"
    assert ran["conv_6"] in ("bf16", "fp32")


def test_fp16_is_written_for_onnx_runtime_too() -> None:
    case = CASES["squeeze_excite"]
    _, plan, artifact = converted(case.model(0), case.inputs(4, 0), scheme=FP16)
    assert plan.target == TARGET.name and len(plan.low) == 7
    assert error(run(artifact, case.inputs(4, 0)), run(case.model(0), case.inputs(4, 0))) < 0.005
