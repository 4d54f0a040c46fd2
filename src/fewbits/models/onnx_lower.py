"""MatMul with a constant matrix, and its bias, as Gemm.

ONNX Runtime has an int8 Gemm with bias and float output (QGemm), but no such MatMul; left as MatMul
and Add, its own fusion builds a Gemm with a float bias that no int8 kernel takes, and most of the
gain is lost (7 times slower on a BERT feed-forward block). Inputs of rank above 2 are reshaped.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.models.onnx_fold import array_of, take_over
from fewbits.models.onnx_names import constant


class MatMulToGemm(ir.passes.InPlacePass):
    """Rewrites the MatMul groups in `groups`.

    Afterwards `aliases` maps each new tensor to the tensor whose values it holds.
    """

    def __init__(self, groups: Mapping[str, Group], graph: Graph) -> None:
        super().__init__()
        self._groups = groups
        self._graph = graph
        self.aliases: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was rewritten."""
        flat: dict[str, ir.Value] = {}
        leading = _Leading(model)
        modified = False
        for node in list(model.graph):
            group = self._groups.get(str(node.name))
            if group is not None and group.kind is Kind.MATMUL and group.weight:
                self._rewrite(model, node, group, flat, leading)
                modified = True
        return ir.passes.PassResult(model, modified)

    def _rewrite(
        self, model: ir.Model, matmul: ir.Node, group: Group, flat: dict[str, ir.Value], leading: _Leading
    ) -> None:
        source, weight = matmul.inputs[0], matmul.inputs[1]
        assert source is not None and source.shape is not None
        depth, columns = (int(d) for d in array_of(weight).shape)
        chain = [matmul, *(reader for reader in _chain(matmul, group))]
        last = chain[-1]
        inputs: list[ir.Value | None] = [source, weight]
        if group.bias:
            vector = array_of(model.graph.initializers[group.bias]).reshape(-1)
            inputs.append(constant(model, f"{matmul.name}.bias", vector.astype(np.float32)))
        rank = len(source.shape)
        if rank != 2:
            name = str(source.name)
            if name not in flat:
                rows = constant(model, f"{name}.rows_shape", np.array([-1, depth], np.int64))
                reshape = _node("Reshape", [source, rows], f"{name}.rows", f"{name}.to_rows", source.type)
                reshape.outputs[0].shape = ir.Shape([None, depth])
                _after(model, source, reshape)
                flat[name] = reshape.outputs[0]
                self.aliases[f"{name}.rows"] = name
            inputs[0] = flat[name]
        gemm = _node("Gemm", inputs, f"{matmul.name}.product", str(matmul.name), source.type)
        gemm.outputs[0].shape = ir.Shape([None, columns])
        tail = [gemm]
        for node in chain[1:]:
            if node.op_type == "Add":
                continue
            behind = [tail[-1].outputs[0], *node.inputs[1:]]
            copy = _node(node.op_type, behind, f"{node.name}.rows", str(node.name), source.type, node.attributes)
            copy.outputs[0].shape = ir.Shape([None, columns])
            tail.append(copy)
        if rank != 2:
            target = leading.shape(source, columns, before=matmul)
            back = [tail[-1].outputs[0], target]
            tail.append(_node("Reshape", back, f"{matmul.name}.back", f"{matmul.name}.to_back", source.type))
            self.aliases[str(tail[-2].outputs[0].name)] = str(last.outputs[0].name)
        model.graph.insert_before(matmul, tail)
        take_over(last.outputs[0], tail[-1].outputs[0])
        for node in reversed(chain):
            node.name = f"{node.name}.replaced"
            model.graph.remove(node, safe=True)


class _Leading:
    """Shape tensors ``[leading dimensions of X..., columns]``, one per distinct set of dimensions."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._heads: dict[tuple[str, ...], ir.Value] = {}
        self._shapes: dict[tuple[tuple[str, ...], int], ir.Value] = {}

    def shape(self, source: ir.Value, columns: int, before: ir.Node) -> ir.Value:
        assert source.shape is not None
        dims = list(source.shape)[:-1]
        unknown = [not isinstance(dim, int) for dim in dims]
        if sum(unknown) <= 1:
            static = [-1 if free else dim for dim, free in zip(dims, unknown, strict=True)]
            return constant(self._model, f"{before.name}.back_shape", np.array([*static, columns], np.int64))
        # Equal symbolic names are equal sizes; without names only the same tensor is sure to have the same.
        names = [str(dim) if isinstance(dim, int) else dim.value for dim in dims]
        key = tuple(str(source.name) if name is None else name for name in names)
        key = key if None not in names else (str(source.name),)
        if (key, columns) not in self._shapes:
            head = self._head(source, key, names, before)
            tail = constant(self._model, f"columns_{columns}", np.array([columns], np.int64))
            concat = _node(
                "Concat", [head, tail], f"{head.name}.{columns}", f"{head.name}.to_{columns}", None, {"axis": 0}
            )
            self._after(head, concat)
            self._shapes[key, columns] = concat.outputs[0]
        return self._shapes[key, columns]

    def _head(self, source: ir.Value, key: tuple[str, ...], names: list[str | None], before: ir.Node) -> ir.Value:
        if key not in self._heads:
            origin = source
            for value in self._model.graph.inputs:
                if value.shape is not None and None not in names and _starts_with(value.shape, names):
                    origin = value
                    break
            rank = len(names)
            name = f"{origin.name}.leading"
            shape = _node("Shape", [origin], f"{name}_all", f"{name}_to_all", None)
            starts, ends = (
                constant(self._model, f"{name}_{what}", np.array([at], np.int64))
                for what, at in (("from", 0), ("to", rank))
            )
            head = _node("Slice", [shape.outputs[0], starts, ends], name, f"{name}_to", None)
            self._after(origin, shape)
            self._model.graph.insert_after(shape, head)
            self._heads[key] = head.outputs[0]
        return self._heads[key]

    def _after(self, value: ir.Value, node: ir.Node) -> None:
        _after(self._model, value, node)


def _starts_with(shape: ir.Shape, names: list[str | None]) -> bool:
    first = [str(dim) if isinstance(dim, int) else dim.value for dim in list(shape)[: len(names)]]
    return first == names


def _chain(matmul: ir.Node, group: Group) -> list[ir.Node]:
    """The nodes behind `matmul` that its group holds: bias, and an activation that a quantiser absorbs."""
    chain: list[ir.Node] = []
    value = matmul.outputs[0]
    while value.name != group.inner:
        value = value.consumers()[0].outputs[0]
        producer = value.producer()
        assert producer is not None
        chain.append(producer)
    return chain


def _node(
    op_type: str,
    inputs: list[ir.Value | None] | list[ir.Value],
    output: str,
    name: str,
    type: ir.TypeProtocol | None,
    attributes: Mapping[str, int | ir.Attr] | None = None,
) -> ir.Node:
    made = ir.node(op_type, list(inputs), dict(attributes or {}), name=name, num_outputs=1)
    made.outputs[0].name = output
    made.outputs[0].type = type
    return made


def _after(model: ir.Model, value: ir.Value, node: ir.Node) -> None:
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0] if len(model.graph) else node, node)
    else:
        model.graph.insert_after(producer, node)
