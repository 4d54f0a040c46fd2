"""Laws of casts, over every structure of the builders and random choices of schemes."""

from __future__ import annotations

import random
from collections import defaultdict

import onnx
import pytest
from onnx import TensorProto

from builders import CASES
from conversion import OPENVINO, error, observed_ranges, run, smoothed
from fewbits.eligibility import obstacle
from fewbits.formats.scheme import BF16, FP16
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan

SMALL = {TensorProto.BFLOAT16, TensorProto.FLOAT16}
# Activations and carriers, which give the same values in any type.
THROUGH = {"Relu", "Clip", "MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"}


def chosen(name: str, seed: int, *, casts: bool) -> tuple[onnx.ModelProto, Artifact]:
    """A builders' case and it with a scheme for each group drawn from the menu, or only from fp32 and casts."""
    draw = random.Random(f"{name} {seed}")
    case = CASES[name]
    model = open_model(case.model(0))
    choices = {}
    for one in group(model.graph):
        offered = OPENVINO.menu(model.graph, one).schemes
        # Codes of a joint are left out: no range suits scores to which a mask of -10000 was added.
        kept = [scheme for scheme in offered if scheme.is_fp32 or scheme.is_cast or (not casts and one.is_product)]
        choices[one.name] = Choice(str(draw.choice(kept)), "drawn")
    inputs = case.inputs(8, 0)
    plan = Plan(model.sha256, choices, observed_ranges(model, inputs), OPENVINO.name)
    return case.model(0), model.converted(smoothed(model, plan, inputs))


class Types:
    """A graph with the types of its tensors, and who reads them."""

    def __init__(self, artifact: Artifact) -> None:
        proto = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(artifact.content), strict_mode=True)
        graph = proto.graph
        self.nodes = list(graph.node)
        self.outputs = {output.name for output in graph.output}
        values = (*graph.value_info, *graph.input, *graph.output)
        self.type = {value.name: value.type.tensor_type.elem_type for value in values}
        self.type |= {one.name: one.data_type for one in graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)

    def widenings(self) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type == "Cast" and self.type[node.input[0]] in SMALL]

    def comes_back(self, node: onnx.NodeProto, small: int) -> bool:
        """Whether all that `node` gives is cast to `small`, at once or behind what changes no value."""
        if node.op_type == "Cast":
            return self.type[node.output[0]] == small
        name = node.output[0]
        if node.op_type not in THROUGH or name in self.outputs or not self.readers[name]:
            return False
        return all(self.comes_back(reader, small) for reader in self.readers[name])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_cast_to_float32_only_to_be_cast_back(name: str, seed: int) -> None:
    _, artifact = chosen(name, seed, casts=seed % 2 == 0)
    graph = Types(artifact)
    for wide in graph.widenings():
        small = graph.type[wide.input[0]]
        assert not any(graph.comes_back(reader, small) for reader in graph.readers[wide.output[0]]), wide.name


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", CASES)
def test_any_mixture_is_valid_and_close(name: str, seed: int) -> None:
    proto, artifact = chosen(name, seed, casts=seed % 2 == 0)
    result = onnx.load_model_from_string(artifact.content)
    onnx.checker.check_model(result, full_check=True)
    assert [one.SerializeToString() for one in result.graph.output] == [
        one.SerializeToString() for one in proto.graph.output
    ]
    inputs = CASES[name].inputs(8, 0)
    assert error(run(artifact, inputs, OPENVINO), run(proto, inputs)) < (0.02 if seed % 2 == 0 else 0.06)


@pytest.mark.parametrize("name", CASES)
def test_every_float_operand_of_a_group_has_the_type_of_its_scheme(name: str) -> None:
    case = CASES[name]
    model = open_model(case.model(0))
    # The rows of a table are not cast.
    groups = [one for one in group(model.graph) if not obstacle(model.graph, one, BF16)]
    draw = random.Random(name)
    schemes = {one.name: draw.choice([BF16, FP16]) for one in groups}
    choices = {one: Choice(str(scheme), "drawn") for one, scheme in schemes.items()}
    graph = Types(model.converted(Plan(model.sha256, choices, {}, OPENVINO.name)))
    nodes = {node.name: node for node in graph.nodes}
    for one in groups:
        wanted = TensorProto.BFLOAT16 if schemes[one.name] == BF16 else TensorProto.FLOAT16
        for member in one.nodes:
            # A folded batch norm is gone.
            if member in nodes:
                read = {graph.type[value] for value in nodes[member].input} - {TensorProto.INT64}
                assert read == {wanted} == {graph.type[nodes[member].output[0]]}
