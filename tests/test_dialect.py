"""One plan, several runtimes: each gets the nodes that it fuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest

from builders import CASES, CHANNELS, Net, images
from conversion import OPENVINO, TARGET, error, planned, run
from fewbits.dialect import PLAIN, Dialect, dialect
from fewbits.formats.scheme import BF16, INT4_BLOCKS, INT8_BLOCKS, INT8_STATIC, Scheme
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from odd_models import ODD, finish


def operators(artifact: Artifact) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(artifact.content).graph.node)


def test_what_decides_is_the_runtime_not_the_device() -> None:
    assert dialect("onnxruntime:cpu") == dialect("onnxruntime") == dialect("onnxruntime:cuda")
    assert dialect("onnxruntime:cpu") == Dialect(gemm=True, isolates=True, blocks=True, repeats=True, spreads=False)
    assert dialect("openvino:cpu") == Dialect(attention=True, limits=True)
    assert dialect("tensorrt:cuda") == dialect("") == PLAIN == Dialect()


def test_what_stands_behind_bf16_stays_float_where_there_is_no_kernel_for_it() -> None:
    """ONNX Runtime joins bf16 tensors on the CPU, but does not add them."""
    net = Net()
    joined = net.add("Concat", net.add("Relu", "x"), net.add("Sigmoid", "x"), axis=1)
    y = net.add("Tanh", net.add("Add", joined, net.constant(np.ones((1, 6, 1, 1), np.float32))))
    proto = finish(net, y, x=("batch", 3, 8, 8))
    model = open_model(proto)
    plan = Plan(model.sha256, {"concat_2": Choice(str(BF16), "")}, {})
    for target in (TARGET, OPENVINO):
        artifact = model.converted(replace(plan, target=target.name))
        assert error(run(artifact, images(3), target), run(proto, images(3))) < 0.01
        assert operators(artifact)["Cast"] == 3


def both(name: str) -> tuple[dict[str, Artifact], Plan, onnx.ModelProto]:
    """The same decisions for either runtime."""
    case = CASES[name]
    proto = case.model(0)
    model = open_model(proto)
    plan = planned(model, case.inputs(8, 0))
    made = {target.name: model.converted(replace(plan, target=target.name)) for target in (TARGET, OPENVINO)}
    return made, plan, proto


def test_a_product_is_a_gemm_for_one_and_a_matmul_for_the_other() -> None:
    made, plan, _ = both("mlp_gelu")
    assert len(plan.low) == 2
    lowered, plain = operators(made[TARGET.name]), operators(made[OPENVINO.name])
    assert (lowered["Gemm"], lowered["MatMul"]) == (2, 0)
    assert (plain["Gemm"], plain["MatMul"], plain["Add"]) == (0, 2, 3)


@pytest.mark.parametrize("name", ["mlp_gelu", "transformer", "pooled_classifier", "squeeze_excite"])
def test_each_form_is_the_same_model(name: str) -> None:
    made, _, proto = both(name)
    inputs = CASES[name].inputs(8, 0)
    wanted = run(proto, inputs)
    for target in (TARGET, OPENVINO):
        onnx.checker.check_model(onnx.load_model_from_string(made[target.name].content), full_check=True)
    # Both forms on one runtime, so that only the form is compared.
    forms = [run(artifact, inputs) for artifact in made.values()]
    assert error(forms[0], wanted) < 0.04 and error(forms[1], wanted) < 0.04
    assert error(forms[0], forms[1]) < 0.04


def test_a_carrier_has_quantisers_on_both_sides_or_in_front_only() -> None:
    net = Net()
    x = net.add("Relu", net.conv("x", 3, CHANNELS, bias=True))
    y = net.add("Transpose", x, perm=[0, 1, 3, 2])
    proto = finish(net, net.add("Neg", net.conv(y, CHANNELS, CHANNELS)))
    model = open_model(proto)
    plan = planned(model, images(8))
    assert len(plan.low) == 2

    def around(target: str) -> tuple[str, set[str]]:
        graph = onnx.load_model_from_string(model.converted(replace(plan, target=target)).content).graph
        (carrier,) = (node for node in graph.node if node.op_type == "Transpose")
        makers = {name: node.op_type for node in graph.node for name in node.output}
        return makers[carrier.input[0]], {node.op_type for node in graph.node if carrier.output[0] in node.input}

    assert around("onnxruntime:cpu") == ("DequantizeLinear", {"QuantizeLinear"})
    assert around("openvino:cpu") == ("DequantizeLinear", {"Conv"})


def test_only_one_runtime_has_to_be_kept_from_fusing() -> None:
    odd = ODD["tanh between gemms"]
    model = open_model(odd.model())
    plan = planned(model, odd.inputs(4))
    isolated, plain = (operators(model.converted(replace(plan, target=one))) for one in (TARGET.name, OPENVINO.name))
    assert isolated["Reshape"] == 1 and plain["Reshape"] == 0


@pytest.mark.parametrize("scheme", [INT8_BLOCKS, INT4_BLOCKS])
def test_blocks_are_a_kernel_of_their_own_or_behind_a_dequantiser(scheme: Scheme) -> None:
    model = open_model(CASES["mlp_gelu"].model(0))
    plan = Plan(model.sha256, {"matmul_0": Choice(str(scheme), "")}, {}, TARGET.name)
    kernel = operators(model.converted(plan))
    plain = operators(model.converted(replace(plan, target=OPENVINO.name)))
    assert (kernel["MatMulNBits"], kernel["MatMul"], kernel["DequantizeLinear"]) == (1, 1, 0)
    assert (plain["MatMulNBits"], plain["MatMul"], plain["DequantizeLinear"]) == (0, 2, 1)


def test_a_plan_without_a_target_is_written_plainly() -> None:
    model = open_model(CASES["mlp_gelu"].model(0))
    plan = planned(model, CASES["mlp_gelu"].inputs(8, 0))
    assert all(plan.scheme(name) == INT8_STATIC for name in plan.low)
    plain = [model.converted(replace(plan, target=target)).content for target in ("", OPENVINO.name)]
    assert plain[0] == plain[1]
