"""Constants behind nodes: ``Transpose(initializer)`` is as constant as the initializer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from fewbits.models.onnx_pieces import array

# What exporters leave of a weight: rearranged, cut from or joined to others, normalised (weight norm), or decoded.
_OPERATORS = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Concat", "Slice", "Gather"}
    | {"Expand", "Tile", "Pad", "Where", "ConstantOfShape", "DequantizeLinear", "Add", "Sub", "Mul", "Div", "Neg"}
    | {"Sqrt", "Pow", "Reciprocal", "Exp", "ReduceL2", "ReduceSum", "ReduceMean", "MatMul"}
)


class MarkConstants(ir.passes.InPlacePass):
    """Gives what is computed from constants alone by `_OPERATORS` a constant value, made when it is asked for.

    The nodes stay: a weight that is stored once and read in two forms stays stored once.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was marked."""
        modified = False
        for node in model.graph:
            if node.op_type in _OPERATORS and node.domain == "" and node.outputs[0].const_value is None:
                modified |= _mark(node, model.graph.opset_imports.get("", onnx.defs.onnx_opset_version()))
        return ir.passes.PassResult(model, modified)


def _mark(node: ir.Node, opset: int) -> bool:
    output, inputs = node.outputs[0], [value.const_value for value in node.inputs if value is not None]
    constants = [tensor for tensor in inputs if tensor is not None]
    shape = None if output.shape is None else [size for size in output.shape if isinstance(size, int)]
    if not constants or len(constants) != len(node.inputs) or output.dtype is None:
        return False
    if shape is None or output.shape is None or len(shape) != len(output.shape) or output.is_graph_output():
        return False
    compute = _evaluation(node, constants, opset)
    output.const_value = ir.LazyTensor(compute, dtype=output.dtype, shape=ir.Shape(shape), name=output.name)
    return True


def _evaluation(node: ir.Node, constants: list[ir.TensorProtocol], opset: int) -> Callable[[], ir.TensorProtocol]:
    # The evaluator needs no more of the node than this; its inputs may be replaced later.
    proto = ir.to_proto(node)

    def compute() -> ir.TensorProtocol:
        feeds = {name: array(tensor) for name, tensor in zip(proto.input, constants, strict=True)}
        (result,) = ReferenceEvaluator(proto, opsets={"": opset}).run(None, feeds)
        return ir.tensor(np.asarray(result))

    return compute
