"""MatMul with a constant matrix, and its bias, as Gemm.

ONNX Runtime has an int8 Gemm with bias and float output (QGemm), but no such MatMul. Left as MatMul and
Add, its own fusion builds a Gemm with a float bias wherever it knows the shape, and no int8 kernel takes
that (tests/models/test_onnx_lower.py); where it does not, the bias is added in floats afterwards. Inputs
of rank above 2 are reshaped.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.graph import Kind
from fewbits.grouping import Group
from fewbits.models.onnx_leading import LeadingShapes
from fewbits.models.onnx_names import Names, array_of, insert_after, take_over


class MatMulToGemm(ir.passes.InPlacePass):
    """Rewrites the MatMul groups in `groups`.

    Afterwards `aliases` maps each new tensor to the tensor whose values it holds.
    """

    def __init__(self, groups: Mapping[str, Group]) -> None:
        super().__init__()
        self._groups = groups
        self.aliases: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was rewritten."""
        names = Names(model)
        rows: dict[ir.Value, ir.Value] = {}
        leading = LeadingShapes(model, names)
        modified = False
        for node in list(model.graph):
            group = self._groups.get(str(node.name))
            if group is not None and group.kind is Kind.MATMUL and group.weight:
                self._rewrite(model, names, node, group, rows, leading)
                modified = True
        return ir.passes.PassResult(model, modified)

    def _rewrite(
        self,
        model: ir.Model,
        names: Names,
        matmul: ir.Node,
        group: Group,
        rows: dict[ir.Value, ir.Value],
        leading: LeadingShapes,
    ) -> None:
        source, weight = matmul.inputs[0], matmul.inputs[1]
        assert source is not None and source.shape is not None
        depth, columns = (int(size) for size in array_of(weight).shape)
        is_matrix = len(source.shape) == 2
        chain = _chain(matmul, group)
        inputs = [source if is_matrix else self._rows(model, names, source, depth, rows), weight]
        if group.bias:
            inputs.append(names.constant(f"{matmul.name}.bias", _bias(chain[1])))
        last = chain[-1]
        tail = [names.node("Gemm", inputs, f"{matmul.name}.product", f"{matmul.name}.gemm")]
        for node in chain[1:]:
            if node.op_type != "Add":
                behind = [tail[-1].outputs[0], *node.inputs[1:]]
                tail.append(
                    names.node(node.op_type, behind, f"{node.name}.rows", f"{node.name}.of_rows", node.attributes)
                )
        for node in tail:
            node.outputs[0].type, node.outputs[0].shape = source.type, ir.Shape([None, columns])
        if not is_matrix:
            back = [tail[-1].outputs[0], leading.shape(source, columns, before=matmul)]
            tail.append(names.node("Reshape", back, f"{matmul.name}.back", f"{matmul.name}.to_back"))
            self.aliases[str(tail[-2].outputs[0].name)] = str(last.outputs[0].name)
        model.graph.insert_before(matmul, tail)
        take_over(last.outputs[0], tail[-1].outputs[0])
        for node in reversed(chain):
            model.graph.remove(node, safe=True)
        # The same names as before, by which plans and profiles know them.
        for new, old in zip(tail, (node for node in chain if node.op_type != "Add"), strict=False):
            new.name = old.name

    def _rows(
        self, model: ir.Model, names: Names, source: ir.Value, depth: int, rows: dict[ir.Value, ir.Value]
    ) -> ir.Value:
        """`source` with all axes but the last, of size `depth`, made one."""
        if source not in rows:
            shape = names.constant(f"{source.name}.rows_shape", np.array([-1, depth], np.int64))
            reshape = names.node("Reshape", [source, shape], f"{source.name}.rows", f"{source.name}.to_rows")
            rows[source] = reshape.outputs[0]
            rows[source].type, rows[source].shape = source.type, ir.Shape([None, depth])
            insert_after(model, source, reshape)
            self.aliases[str(rows[source].name)] = str(source.name)
        return rows[source]


def _chain(matmul: ir.Node, group: Group) -> list[ir.Node]:
    """`matmul` and what its group holds behind it: bias, and an activation that a quantiser absorbs."""
    chain = [matmul]
    while chain[-1].outputs[0].name != group.inner:
        chain.append(chain[-1].outputs[0].consumers()[0])
    return chain


def _bias(add: ir.Node) -> Array:
    """The constant that `add` adds, one number per column."""
    constant = next(value for value in add.inputs if value is not None and value.const_value is not None)
    return array_of(constant).reshape(-1)
