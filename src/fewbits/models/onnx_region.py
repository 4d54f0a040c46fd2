"""Groups of a model side by side as a model of their own: what costs are measured on.

Every operand is an input of the new model, and an Abs stands behind every result, so that a group has floats on both
sides and is not folded into anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from fewbits.graph import Kind
from fewbits.grouping import Group
from fewbits.models.onnx_annex import external
from fewbits.models.onnx_pieces import array

_IR_VERSION = 10


def regions(
    model: ir.Model, groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[ir.Model, dict[str, str]]:
    """A model with `groups` next to each other, and its inputs: name → operand.

    `shapes` gives the shape of each operand in one call. Nodes keep their names. Constants are shared with `model`
    until they are written.
    """
    nodes: list[ir.Node] = []
    inputs: list[ir.Value] = []
    outputs: list[ir.Value] = []
    constants: dict[str, ir.Value] = {}
    given: dict[str, str] = {}
    by_name = {str(node.name): node for node in model.graph}
    for number, group in enumerate(groups):
        made: dict[str, ir.Value] = {}
        for position, operand in enumerate(dict.fromkeys(group.operands)):
            name = f"region_{number}_{position}"
            dtype = next(
                value.dtype for value in by_name[group.name].inputs if value is not None and value.name == operand
            )
            type_ = ir.TensorType(dtype or ir.DataType.FLOAT)
            made[operand] = ir.Value(name=name, shape=ir.Shape(shapes[operand]), type=type_)
            inputs.append(made[operand])
            given[name] = operand
        for one in group.nodes:
            original = by_name[one]
            read = [_read(value, made, constants) for value in original.inputs]
            node = ir.Node(
                original.domain,
                original.op_type,
                read,
                list(original.attributes.values()),
                num_outputs=len(original.outputs),
                name=original.name,
            )
            for value, known in zip(node.outputs, original.outputs, strict=True):
                value.name, value.type = known.name, known.type
                made[str(known.name)] = value
            nodes.append(node)
        # The absolute value of a row that is looked up is looked up in a table of absolute values: OpenVINO folds it.
        operator = "LpNormalization" if group.kind is Kind.GATHER else "Abs"
        behind = ir.node(operator, [made[group.output]], name=f"region_{number}_behind", num_outputs=1)
        behind.outputs[0].name = f"region_{number}_result"
        behind.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        (known,) = (value for value in by_name[group.nodes[-1]].outputs if value.name == group.output)
        behind.outputs[0].shape = known.shape
        nodes.append(behind)
        outputs.append(behind.outputs[0])
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=nodes,
        initializers=list(constants.values()),
        opset_imports=dict(model.graph.opset_imports),
        name="regions",
    )
    return ir.Model(graph, ir_version=max(model.ir_version or 0, _IR_VERSION)), given


def _read(value: ir.Value | None, made: Mapping[str, ir.Value], constants: dict[str, ir.Value]) -> ir.Value | None:
    if value is None:
        return None
    name = str(value.name)
    if name in made:
        return made[name]
    if name not in constants:
        assert value.const_value is not None, f"{name} is neither an operand nor a constant"
        tensor = _named(value.const_value, name)
        constants[name] = ir.Value(name=name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    return constants[name]


def _named(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    if isinstance(tensor, ir.ExternalTensor):
        return external(Path(tensor.path), tensor.offset or 0, tensor.nbytes, tensor, name)
    return ir.tensor(array(tensor), name=name)
