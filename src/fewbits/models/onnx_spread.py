"""bf16 regions: what stands between bf16 products and is no group of its own computes in bf16, too.

Casts are then left at the borders of a region only, as when a runtime is told to run a whole model in bf16. float32's
exponents are bf16's, so nothing overflows that did not before; fp16 has no such regions. The exception are values that
stand for infinity: rounded to bf16, the lowest float32 would be infinite. Where one is added (an attention mask), it is
clipped to what bf16 holds first; everywhere else it stays out.
"""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx_ir as ir

from fewbits.formats.floating import BF16
from fewbits.models.onnx_names import Names, array_of, insert_after

_LOW = ir.DataType.BFLOAT16
_ENDS = {"low": -BF16.max, "high": BF16.max}
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
        stored: dict[ir.Value, ir.Value] = {}
        modified = False
        for node in list(model.graph):
            if node.domain or node.op_type not in _OPERATORS or node.name in self._taken or len(node.outputs) != 1:
                continue
            if not self._reads_bf16(node):
                continue
            for index, value in enumerate(node.inputs):
                if value is None or value.dtype is not ir.DataType.FLOAT:
                    continue
                if value not in stored:
                    stored[value] = _narrow(model, names, value)
                node.replace_input_with(index, stored[value])
            _widen_behind(model, names, node)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _reads_bf16(self, node: ir.Node) -> bool:
        """Whether every float operand of `node` is a constant, a mask or cast from bf16, at least one of these."""
        result = node.outputs[0]
        if result.dtype is not ir.DataType.FLOAT or result.is_graph_output():
            return False
        given = [value for value in node.inputs if value is not None and value.dtype is ir.DataType.FLOAT]
        low = [value for value in given if _is_widened(value)]
        others = [value for value in given if not _is_widened(value)]
        # Behind a clipped mask, what is infinite by the graph alone is no longer.
        return bool(low) and all(self._is_mask(node, value) or _is_held(value) for value in others)

    def _is_mask(self, node: ir.Node, value: ir.Value) -> bool:
        return node.op_type == "Add" and value.name in self._infinite


def _is_held(value: ir.Value) -> bool:
    """Whether `value` is a constant that bf16 holds."""
    if value.const_value is None:
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array_of(value).astype(ml_dtypes.bfloat16).astype(np.float32)).all())


def _narrow(model: ir.Model, names: Names, value: ir.Value) -> ir.Value:
    """`value` in bf16: what it was cast from, or itself within bf16's limits."""
    producer = value.producer()
    if producer is not None and _is_widened(value) and producer.inputs[0] is not None:
        return producer.inputs[0]
    name = f"{value.name}.bfloat16"
    if value.const_value is not None:
        return names.constant(name, np.clip(array_of(value), -BF16.max, BF16.max).astype(ml_dtypes.bfloat16))
    ends = [names.constant(f"{name}.{end}", np.array(limit, np.float32)) for end, limit in _ENDS.items()]
    clip = names.node("Clip", [value, *ends], f"{name}.clipped", f"{name}.clip")
    clip.outputs[0].shape, clip.outputs[0].type = value.shape, value.type
    cast = names.node("Cast", [clip.outputs[0]], name, f"{name}.quantize", {"to": int(_LOW)})
    cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(_LOW)
    insert_after(model, value, clip, cast)
    return cast.outputs[0]


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
