"""bf16 regions: what stands between bf16 products and is no group of its own computes in bf16, too.

Casts are then left at the borders of a region only, as when a runtime is told to run a whole model in bf16. float32's
exponents are bf16's, so nothing overflows that did not before; fp16 has no such regions. Values that stand for
infinity (masks) stay out: rounded to bf16 they would be infinite.
"""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.models.onnx_names import Names, array_of

_LOW = ir.DataType.BFLOAT16
_OPERATORS = frozenset(
    {"Add", "Sub", "Mul", "Div", "Sqrt", "Erf", "Tanh", "Sigmoid", "Gelu", "Softmax", "LayerNormalization"}
    | {"Relu", "Clip", "HardSwish", "LeakyRelu", "Elu", "Exp", "Neg", "Abs", "ReduceMean", "GlobalAveragePool"}
    | {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Concat", "Expand", "Identity"}
)


class SpreadCasts(ir.passes.InPlacePass):
    """Moves casts from bf16 to float32 behind the nodes that read nothing else.

    `taken` names the nodes of groups, which the plan decides about; `infinite` the tensors that bf16 cannot hold.
    """

    def __init__(self, taken: Collection[str], infinite: Collection[str]) -> None:
        super().__init__()
        self._taken = frozenset(taken)
        self._infinite = frozenset(infinite)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether any node computes in bf16 now that did not before."""
        names = Names(model)
        constants: dict[ir.Value, ir.Value] = {}
        modified = False
        for node in list(model.graph):
            if node.domain or node.op_type not in _OPERATORS or node.name in self._taken or len(node.outputs) != 1:
                continue
            if not self._reads_bf16(node):
                continue
            for index, value in enumerate(node.inputs):
                if value is None or value.dtype is not ir.DataType.FLOAT:
                    continue
                wide = value.producer()
                if value.const_value is not None:
                    if value not in constants:
                        constants[value] = names.constant(f"{value.name}.bfloat16", _small(value))
                    node.replace_input_with(index, constants[value])
                elif wide is not None:
                    node.replace_input_with(index, wide.inputs[0])
            _widen_behind(model, names, node)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _reads_bf16(self, node: ir.Node) -> bool:
        """Whether every float operand of `node` is a constant, or cast from bf16, at least one of these."""
        result = node.outputs[0]
        if result.dtype is not ir.DataType.FLOAT or result.name in self._infinite or result.is_graph_output():
            return False
        given = [value for value in node.inputs if value is not None and value.dtype is ir.DataType.FLOAT]
        inner = [value for value in given if value.const_value is None]
        constants = [value for value in given if value.const_value is not None]
        return (
            bool(inner)
            and all(_is_widened(value) and value.name not in self._infinite for value in inner)
            and all(
                np.isfinite(array_of(value).astype(ml_dtypes.bfloat16).astype(np.float32)).all() for value in constants
            )
        )


def _small(value: ir.Value) -> Array:
    with np.errstate(over="ignore"):
        return array_of(value).astype(ml_dtypes.bfloat16)


def _is_widened(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype is _LOW


def _widen_behind(model: ir.Model, names: Names, node: ir.Node) -> None:
    result = node.outputs[0]
    name, uses = str(result.name), list(result.uses())
    wide = names.node("Cast", [result], f"{name}.float", f"{name}.dequantize", {"to": int(ir.DataType.FLOAT)})
    wide.outputs[0].shape, wide.outputs[0].type = result.shape, ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_after(node, wide)
    for use in uses:
        use.node.replace_input_with(use.idx, wide.outputs[0])
    result.name, wide.outputs[0].name = f"{name}.bfloat16_result", name
    result.type = ir.TensorType(_LOW)
