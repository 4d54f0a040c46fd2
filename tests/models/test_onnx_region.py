"""Groups cut out of a model and put side by side: each computes what it computes in its place."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from builders import CASES, Array
from conversion import OPENVINO, TARGET, error, precisions, run
from fewbits.data.batches import Batch
from fewbits.eligibility import obstacle
from fewbits.formats.scheme import BF16, FP16, INT4_BLOCKS, INT8_BLOCKS, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.graph import Graph
from fewbits.grouping import Group, group
from fewbits.models import open_model
from fewbits.models.protocol import Model, Regions
from fewbits.plan import Choice, Plan
from fewbits.targets.protocol import Target
from graphs import int8
from odd_models import ODD

ODDITIES = (
    "shared weights",
    "one tensor times itself",
    "one tensor added to itself",
    "conv with auto_pad",
    "subgraphs",
)


def made(name: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model and four samples for it."""
    if name in CASES:
        return CASES[name].model(0), CASES[name].inputs(4, 0)
    return ODD[name].model(), ODD[name].inputs(4)


def cut(name: str) -> tuple[Model, tuple[Group, ...], dict[str, Array], Regions]:
    """The model, its groups, the values of all their operands and results, and the groups as a model."""
    proto, inputs = made(name)
    model = open_model(proto)
    groups = tuple(one for one in group(model.graph) if _is_float(model.graph, one))
    wanted = dict.fromkeys(tensor for one in groups for tensor in (*one.operands, one.output))
    (values,) = model.observe([Batch(inputs)], list(wanted))
    shapes = {tensor: array.shape for tensor, array in values.items()}
    return model, groups, dict(values), model.regions(groups, shapes)


def _is_float(graph: Graph, one: Group) -> bool:
    return all(graph.tensors[name].dtype == "float32" for name in one.operands)


def fed(regions: Regions, values: dict[str, Array]) -> dict[str, Array]:
    return {name: values[operand].astype(np.float32) for name, operand in regions.inputs.items()}


@pytest.mark.parametrize("name", [*CASES, *ODDITIES])
def test_each_group_computes_the_same_as_in_the_whole(name: str) -> None:
    _, groups, values, regions = cut(name)
    got = run(regions.model.original(), fed(regions, values))
    assert len(got) == len(groups)
    for one, array in zip(groups, got.values(), strict=True):
        wanted = np.abs(values[one.output])
        assert array.shape == wanted.shape
        assert np.allclose(array, wanted, rtol=1e-4, atol=1e-5), one.name


@pytest.mark.parametrize("name", [*CASES, *ODDITIES])
def test_the_groups_are_those_of_the_model_side_by_side(name: str) -> None:
    model, groups, _, regions = cut(name)
    graph = regions.model.graph
    found = {one.name: one for one in group(graph)}
    assert list(found) == [one.name for one in groups]
    for one in groups:
        again = found[one.name]
        assert (again.kind, again.nodes, again.weight, again.bias) == (one.kind, one.nodes, one.weight, one.bias)
        assert [regions.inputs[operand] for operand in again.operands] == list(one.operands)
        for node in one.nodes:
            assert graph.node[node].attributes == model.graph.node[node].attributes
    # Nothing connects two of them: every input has one reader, every node belongs to one.
    assert all(len(graph.consumers[name]) == 1 for name in graph.inputs)
    assert Counter(node.op for node in graph.nodes)["Abs"] == len(groups) == len(graph.outputs)


def schemes_of(one: Group) -> tuple[Scheme, ...]:
    return (int8(one), BF16, FP16, INT8_WEIGHT, INT8_BLOCKS, INT4_BLOCKS, INT8_DYNAMIC)


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("name", ["squeeze_excite", "transformer", "mlp_gelu", "concat"])
@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
def test_they_convert_under_every_scheme(target: Target, name: str, position: int) -> None:
    _, _, values, regions = cut(name)
    graph, inputs = regions.model.graph, fed(regions, values)
    schemes = {one.name: schemes_of(one)[position] for one in group(graph)}
    low = {one.name: schemes[one.name] for one in group(graph) if not obstacle(graph, one, schemes[one.name])}
    tensors = [*graph.inputs, *graph.producer]
    (observed,) = regions.model.observe([Batch(inputs)], tensors)
    ranges = {tensor: (float(array.min()), float(array.max())) for tensor, array in observed.items() if array.size}
    choices = {group_name: Choice(str(scheme), "") for group_name, scheme in low.items()}
    artifact = regions.model.converted(Plan(regions.model.sha256, choices, ranges, target.name))
    runs_here = target is OPENVINO or BF16 not in low.values()
    if low and runs_here:
        wanted = run(regions.model.original(), inputs)
        assert error(run(artifact, inputs, target), wanted) < (0.2 if INT4_BLOCKS in low.values() else 0.05)


def test_every_group_is_found_again_among_what_ran() -> None:
    _, groups, values, regions = cut("transformer")
    ran = precisions(regions.model, regions.model.original(), fed(regions, values))
    assert set(ran) == {one.name for one in groups}
    assert set(ran.values()) == {"fp32"}


def test_weights_are_those_of_the_model() -> None:
    model, groups, _, regions = cut("residual")
    for one in groups:
        if one.weight:
            assert np.array_equal(regions.model.weight(one.weight), model.weight(one.weight))


def test_some_groups_only() -> None:
    proto, _ = made("transformer")
    model = open_model(proto)
    groups = [one for one in group(model.graph) if one.is_product][:2]
    shapes = {operand: (2, 3, 32) for one in groups for operand in one.operands}
    regions = model.regions(groups, shapes)
    assert [one.name for one in group(regions.model.graph)] == [one.name for one in groups]
    assert [tensor.shape for tensor in regions.model.inputs] == [(2, 3, 32)] * 2
    assert len(set(regions.inputs.values())) == 1
