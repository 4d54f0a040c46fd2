"""Layers as cost models see them, read from a graph and its groups."""

from __future__ import annotations

from math import prod

from fewbits.costs.model import LayerSpec
from fewbits.errors import ModelError
from fewbits.graph import AttributeValue, Graph, Kind, Node
from fewbits.grouping import Group

Shape = tuple[int, ...]


def layer_spec(graph: Graph, group: Group) -> LayerSpec:
    """Work and sizes of `group`; dynamic dimensions (the batch) count as 1.

    Raises ModelError where a shape is unknown.
    """
    anchor = graph.node[group.name]
    output = _shape(graph, group.output, group)
    if group.kind in (Kind.CONV, Kind.CONV_TRANSPOSE):
        return _convolution(graph, group, anchor, output)
    return _matrix_product(graph, group, anchor, output) if group.is_product else _joint(graph, group, anchor, output)


def _convolution(graph: Graph, group: Group, anchor: Node, output: Shape) -> LayerSpec:
    first, second = (_shape(graph, name, group) for name in anchor.inputs[:2])
    groups = next(iter(_integers(anchor.attributes.get("group"))), 1)
    # A transposed convolution has the weight of the one that it transposes.
    outer, inner = second[0], second[1] * groups
    cout, cin = (inner, outer) if group.kind is Kind.CONV_TRANSPOSE else (outer, inner)
    kh, kw = _two(second[2:])
    out_h, out_w = _two(output[2:])
    constant = graph.is_constant(anchor.inputs[1])
    return LayerSpec(
        name=group.name,
        op=str(group.kind),
        macs=graph.macs(anchor),
        weights=prod(second) if constant else 0,
        in_elems=prod(first),
        out_elems=prod(output),
        cin=cin,
        cout=cout,
        kh=kh,
        kw=kw,
        stride=max(_integers(anchor.attributes.get("strides")), default=1),
        groups=groups,
        out_h=out_h,
        out_w=out_w,
        second_elems=0 if constant else prod(second),
    )


def _matrix_product(graph: Graph, group: Group, anchor: Node, output: Shape) -> LayerSpec:
    first, second = (_shape(graph, name, group) for name in anchor.inputs[:2])
    # A vector is a column.
    rows, columns = second[-2:] if len(second) > 1 else (*second, 1)
    depth, cout = (columns, rows) if anchor.attributes.get("transB") else (rows, columns)
    constant = graph.is_constant(anchor.inputs[1])
    return LayerSpec(
        name=group.name,
        op=str(group.kind),
        macs=graph.macs(anchor),
        weights=prod(second) if constant else 0,
        in_elems=prod(first),
        out_elems=prod(output),
        cin=depth,
        cout=cout,
        out_w=prod(output) // max(cout, 1),
        second_elems=0 if constant else prod(second),
    )


def _joint(graph: Graph, group: Group, anchor: Node, output: Shape) -> LayerSpec:
    operands = [_shape(graph, name, group) for name in group.operands]
    kh, kw = _two(_integers(anchor.attributes.get("kernel_shape")))
    out_h, out_w = _two(output[2:])
    return LayerSpec(
        name=group.name,
        op=str(group.kind),
        macs=0,
        weights=0,
        in_elems=sum(map(prod, operands)),
        out_elems=prod(output),
        cin=sum(map(_channels, operands)) if group.kind is Kind.CONCAT else _channels(operands[0]),
        cout=_channels(output),
        kh=kh,
        kw=kw,
        stride=max(_integers(anchor.attributes.get("strides")), default=1),
        out_h=out_h,
        out_w=out_w,
    )


def _shape(graph: Graph, name: str, group: Group) -> Shape:
    tensor = graph.tensors.get(name)
    if tensor is None or tensor.shape is None:
        raise ModelError(
            f"the shape of {name} is unknown, so the cost of the group {group.name} is too; "
            "save the model with shapes (onnx.shape_inference.infer_shapes)"
        )
    return tuple(size if isinstance(size, int) else 1 for size in tensor.shape)


def _channels(shape: Shape) -> int:
    return shape[1] if len(shape) > 1 else 1


def _two(sizes: Shape) -> tuple[int, int]:
    """All but the last of `sizes` multiplied, and the last."""
    return prod(sizes[:-1]), prod(sizes[-1:])


def _integers(value: AttributeValue | None) -> Shape:
    if isinstance(value, int):
        return (value,)
    return tuple(one for one in value if isinstance(one, int)) if isinstance(value, tuple) else ()
