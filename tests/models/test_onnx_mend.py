"""Graphs that are not as ONNX wants them: those that a runtime runs anyway are taken, all others refused plainly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fewbits
import fewbits.flow
from builders import conv_bn_relu, images, residual
from conversion import OPENVINO, TARGET, error, planned, rewritten, run
from fewbits.errors import ModelError
from fewbits.models import open_model
from timing import Timing

Change = Callable[[onnx.ModelProto], None]


def says(tensor: int, shape: tuple[int | str, ...] | None, dtype: int = TensorProto.FLOAT) -> Change:
    """The file says of what node `tensor` gives that it has another shape or type."""

    def change(proto: onnx.ModelProto) -> None:
        name = proto.graph.node[tensor].output[0]
        proto.graph.value_info.append(helper.make_tensor_value_info(name, dtype, shape))

    return change


def output_of_other_size(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 99


def output_of_other_rank(proto: onnx.ModelProto) -> None:
    del proto.graph.output[0].type.tensor_type.shape.dim[3]


def output_of_no_rank(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.ClearField("shape")


def output_of_no_type(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].ClearField("type")


def input_of_no_rank(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.ClearField("shape")


def said_twice(proto: onnx.ModelProto) -> None:
    says(0, ("b", 8, 8, 8))(proto)
    says(0, ("b", 9, 8))(proto)


def said_of_nothing(proto: onnx.ModelProto) -> None:
    proto.graph.value_info.append(helper.make_tensor_value_info("nowhere", TensorProto.FLOAT, [3]))


def backwards(proto: onnx.ModelProto) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def no_names(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = ""


def output_twice(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(proto.graph.output[0])


def imported_twice(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("", 11))


def imported_by_its_long_name(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].domain = "ai.onnx"


def microsoft_without_import(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].op_type, proto.graph.node[2].domain = "FastGelu", "com.microsoft"


FORGIVEN: dict[str, Change] = {
    "other rank": says(0, ("b", 2)),
    "other size": says(0, ("b", 99, 8, 8)),
    "unknown rank": says(0, None),
    "said twice": said_twice,
    "said of nothing": said_of_nothing,
    "output of another size": output_of_other_size,
    "output of another rank": output_of_other_rank,
    "output of no rank": output_of_no_rank,
    "output of no type": output_of_no_type,
    "input of no rank": input_of_no_rank,
    "nodes backwards": backwards,
    "nodes without names": no_names,
    "imported twice": imported_twice,
    "imported by its long name": imported_by_its_long_name,
    "com.microsoft without import": microsoft_without_import,
}


@pytest.mark.parametrize("name", FORGIVEN)
def test_what_a_runtime_forgives_is_taken(name: str) -> None:
    proto = rewritten(conv_bn_relu(), FORGIVEN[name])
    before = proto.SerializeToString()
    model = open_model(proto)
    plan = planned(model, images(4))
    assert plan.low
    made = model.converted(plan)
    assert error(run(made, images(4)), run(proto, images(4))) < 0.03
    assert proto.SerializeToString() == before == model.original().content
    result = onnx.load_model_from_string(made.content)
    assert [one.SerializeToString() for one in result.graph.output] == [
        one.SerializeToString() for one in proto.graph.output
    ]


@pytest.mark.parametrize("name", ["other rank", "other size", "nodes backwards", "output of no rank"])
def test_openvino_gets_it_in_order(name: str) -> None:
    """What is converted is in order again, whether it takes the original or not."""
    proto = rewritten(conv_bn_relu(), FORGIVEN[name])
    model = open_model(proto)
    made = model.converted(planned(model, images(4), target=OPENVINO))
    assert error(run(made, images(4), OPENVINO), run(conv_bn_relu(), images(4))) < 0.03


def test_outside_weights_do_not_matter_to_that(tmp_path: Path) -> None:
    proto = rewritten(rewritten(conv_bn_relu(), backwards), output_of_no_rank)
    whole = open_model(proto)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = open_model(tmp_path / "m.onnx")
    assert model.sha256 == whole.sha256
    assert error(run(model.converted(planned(model, images(4))), images(4)), run(conv_bn_relu(), images(4))) < 0.03


def test_nodes_are_put_in_order_behind_what_their_branches_read() -> None:
    proto = residual()
    (last,) = [node for node in proto.graph.node if "y" in node.output]
    last.output[0] = "sum"
    yes = helper.make_graph(
        [helper.make_node("Identity", ["sum"], ["picked"])],
        "yes",
        [],
        [helper.make_tensor_value_info("picked", TensorProto.FLOAT, None)],
    )
    no = helper.make_graph(
        [helper.make_node("Neg", ["sum"], ["turned"])],
        "no",
        [],
        [helper.make_tensor_value_info("turned", TensorProto.FLOAT, None)],
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    proto.graph.node.insert(0, helper.make_node("If", ["always"], ["y"], name="if", then_branch=yes, else_branch=no))
    model = open_model(proto)
    assert model.graph.nodes[-1].op in ("If", "Identity")
    names = [node.name for node in open_model(residual()).graph.nodes]
    assert [node.name for node in model.graph.nodes if node.name in names] == names


def cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = proto.graph.node[2].output[0]


def of_itself(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = proto.graph.node[0].output[0]


def tensor_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].output[0] = proto.graph.node[0].output[0]
    proto.graph.node[2].input[0] = proto.graph.node[0].output[0]


def weight_twice(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(proto.graph.initializer[0])


def input_twice(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(proto.graph.input[0])


def output_from_nowhere(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "nowhere"


def nothing_imported(proto: onnx.ModelProto) -> None:
    del proto.opset_import[:]


def imported_before_there_was_one(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 0


def unknown_domain_without_import(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].domain = "my.domain"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cycle, "has a cycle: batchnormalization_1 gives batchnormalization_1_out, relu_2 gives relu_2_out, conv_0"),
        (of_itself, "has a cycle: conv_0 gives conv_0_out, which the first of them reads"),
        (tensor_twice, "'conv_0_out' has been used as output names multiple times"),
        (weight_twice, "constant_0 initializer name is not unique"),
        (input_twice, "'x' has been used as graph input names multiple times"),
        (output_from_nowhere, "'nowhere' is not an output of any node"),
        (nothing_imported, "imports no operator set"),
        (imported_before_there_was_one, "No Op registered for Conv with domain_version of 0"),
        (unknown_domain_without_import, "No opset import for domain 'my.domain'"),
    ],
)
def test_what_nobody_runs_is_refused(change: Change, said: str) -> None:
    with pytest.raises(ModelError) as raised:
        open_model(rewritten(conv_bn_relu(), change))
    assert said in str(raised.value)


def equal_names(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = "node"


def imported_in_the_future(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 999


@pytest.mark.parametrize("change", [equal_names, imported_in_the_future, says(0, ("b", 8, 8, 8), TensorProto.INT64)])
def test_what_a_runtime_refuses_is_opened_and_its_refusal(change: Change) -> None:
    """It is opened, and its nodes are told apart by names of their own."""
    model = open_model(rewritten(conv_bn_relu(), change))
    assert len({node.name for node in model.graph.nodes}) == 6
    with pytest.raises(ModelError, match="does not load the model"):
        run(model.original(), images(1), TARGET)


def unknown_domain(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].domain, proto.graph.node[2].op_type = "my.domain", "Frobnicate"
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))


def test_unknown_domains_are_kept_in_float_and_listed() -> None:
    proto = rewritten(conv_bn_relu(), unknown_domain)
    found = fewbits.flow.inspect(proto, "onnxruntime", 1)
    assert "Frobnicate" in {node.op for node in found.graph.nodes}
    assert all("relu_2" not in one.nodes for one in found.groups)
    assert {one.name for one in found.groups} == {"conv_0", "conv_3"}


@pytest.mark.parametrize("name", ["output of no rank", "output of no type", "input of no rank", "nodes backwards"])
def test_tuning_takes_them(timed: Timing, name: str) -> None:
    proto = rewritten(conv_bn_relu(), FORGIVEN[name])
    result = fewbits.tune(proto, images(80), evaluate="cosine", target="onnxruntime", threads=1, effort="low")
    assert result.outcome in tuple(fewbits.Outcome)
    assert result.predict(images(2))
