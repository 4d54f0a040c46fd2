"""onnx-ir models as the project's own Graph."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from fewbits.graph import AttributeValue, Graph, Kind, Node, Tensor
from fewbits.models.onnx_finite import infinite
from fewbits.models.onnx_kinds import kind


def graph_of(model: ir.Model) -> Graph:
    """The nodes of `model`'s main graph and their tensors, in topological order."""
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    pinned: set[str] = set()
    endless = infinite(model)
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        tensors[name_of(value)] = tensor_of(value, finite=value not in endless)
    for node in model.graph:
        for operand in (*node.inputs, *node.outputs):
            if operand is not None and operand.name:
                tensors.setdefault(operand.name, tensor_of(operand, finite=operand not in endless))
        pinned |= set(captured(node))
        inputs = tuple("" if value is None else name_of(value) for value in node.inputs)
        outputs = tuple(value.name or "" for value in node.outputs)
        # What gives constants alone is no operation of the model: a weight that is decoded is a weight.
        computes = any(value.const_value is None for value in node.outputs)
        what = kind(node.domain, node.op_type) if computes else Kind.OTHER
        nodes.append(Node(str(node.name), what, node.op_type, inputs, outputs, attributes_of(node)))
    return Graph(
        tuple(nodes),
        tensors,
        tuple(name_of(value) for value in model.graph.inputs),
        tuple(name_of(value) for value in model.graph.outputs),
        frozenset(pinned),
    )


def name_of(value: ir.Value) -> str:
    """The name of `value`; onnx-ir allows none, a graph read from a file never has that."""
    return str(value.name)


def tensor_of(value: ir.Value, *, finite: bool = True) -> Tensor:
    """`value` without its contents."""
    shape = value.shape
    dims = None if shape is None else tuple(d if isinstance(d, int) else (d.value or "?") for d in shape)
    dtype = "unknown" if value.dtype is None else dtype_name(value.dtype)
    return Tensor(name_of(value), dtype, dims, value.const_value is not None, finite)


def dtype_name(dtype: ir.DataType) -> str:
    """Numpy's name for an ONNX element type."""
    return "str" if dtype is ir.DataType.STRING else str(dtype.numpy())


def captured(node: ir.Node) -> Iterable[str]:
    """Names that the subgraphs of `node` read from outside."""
    for attribute in node.attributes.values():
        for inner in subgraphs(attribute):
            own = {name_of(value) for value in (*inner.inputs, *inner.initializers.values())}
            for child in inner:
                own |= {name_of(value) for value in child.outputs}
            for child in inner:
                yield from (name_of(v) for v in child.inputs if v is not None and v.name not in own)
                yield from (name for name in captured(child) if name not in own)
            yield from (name_of(v) for v in inner.outputs if v.name not in own)


def subgraphs(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    """The graphs that an attribute holds."""
    if attribute.type is ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return tuple(attribute.as_graphs()) if attribute.type is ir.AttributeType.GRAPHS else ()


def attributes_of(node: ir.Node) -> dict[str, AttributeValue]:
    """Plain attributes: numbers, texts and tuples of them."""
    found: dict[str, AttributeValue] = {}
    for name, attribute in node.attributes.items():
        match attribute.type:
            case ir.AttributeType.INT | ir.AttributeType.FLOAT | ir.AttributeType.STRING:
                found[name] = attribute.value
            case ir.AttributeType.INTS | ir.AttributeType.FLOATS | ir.AttributeType.STRINGS:
                found[name] = tuple(attribute.value)
            case _:
                continue
    return found
