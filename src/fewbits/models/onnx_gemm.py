"""Gemm by a constant matrix in the form that the other passes know: without factors, or as MatMul and Add.

``Gemm(A, B, C) = alpha * A @ B' + beta * C`` with ``B'`` transposed where transB says so.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from fewbits.models.onnx_names import Names, array_of, take_over


class FoldGemmFactors(ir.passes.InPlacePass):
    """Takes alpha and beta of the Gemm nodes in `low`, whose weight and bias are constants, into these."""

    def __init__(self, low: Collection[str]) -> None:
        super().__init__()
        self._low = frozenset(low)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether any factor was folded."""
        names = Names(model)
        modified = False
        for node in model.graph:
            if node.op_type != "Gemm" or node.name not in self._low:
                continue
            for factor, place in (("alpha", 1), ("beta", 2)):
                value = node.inputs[place] if place < len(node.inputs) else None
                number = _factor(node, factor)
                if number == 1.0 or value is None:
                    continue
                scaled = np.asarray(array_of(value) * np.float32(number), np.float32)
                node.replace_input_with(place, names.constant(f"{value.name}.{factor}", scaled))
                modified = True
            for factor in ("alpha", "beta"):
                node.attributes.pop(factor, None)
        return ir.passes.PassResult(model, modified)


class GemmToMatMul(ir.passes.InPlacePass):
    """Writes the Gemm nodes in `low`, which have no factors, as MatMul and Add."""

    def __init__(self, low: Collection[str]) -> None:
        super().__init__()
        self._low = frozenset(low)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether any Gemm was rewritten."""
        names = Names(model)
        gemms = [node for node in model.graph if node.op_type == "Gemm" and node.name in self._low]
        for node in gemms:
            _rewrite(model, names, node)
        return ir.passes.PassResult(model, bool(gemms))


def _rewrite(model: ir.Model, names: Names, gemm: ir.Node) -> None:
    weight, bias = gemm.inputs[1], gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if is_transposed(gemm):
        weight = names.constant(f"{gemm.name}.weight", array_of(weight).T)
    made, source = [], gemm.inputs[0]
    if "transA" in gemm.attributes and gemm.attributes["transA"].as_int():
        made.append(names.node("Transpose", [source], f"{gemm.name}.turned", f"{gemm.name}.transpose"))
        source = made[0].outputs[0]
        source.type = ir.TensorType(ir.DataType.FLOAT)
    product = names.node("MatMul", [source, weight], f"{gemm.name}.product", f"{gemm.name}.matmul")
    made.append(product)
    if bias is not None:
        made.append(names.node("Add", [product.outputs[0], bias], f"{gemm.name}.sum", f"{gemm.name}.add"))
    product.outputs[0].type, product.outputs[0].shape = gemm.outputs[0].type, gemm.outputs[0].shape
    model.graph.insert_before(gemm, made)
    take_over(gemm.outputs[0], made[-1].outputs[0])
    name = gemm.name
    model.graph.remove(gemm, safe=True)
    # By this name plans and profiles know it.
    product.name = name


def is_transposed(node: ir.Node) -> bool:
    """Whether the product `node` reads its weight transposed: (outputs, inputs)."""
    return "transB" in node.attributes and bool(node.attributes["transB"].as_int())


def _factor(gemm: ir.Node, name: str) -> float:
    return gemm.attributes[name].as_float() if name in gemm.attributes else 1.0
