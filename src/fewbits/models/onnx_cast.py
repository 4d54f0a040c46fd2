"""Products and joints in bf16 or fp16: explicit casts at the borders of what computes so, weights stored small.

Both operands are cast, as the runtimes that run mixed graphs ask for (OpenVINO, TensorRT). A group is cast as a whole,
with its bias and activation, which a runtime fuses with the product only if nothing stands between them. Casts between
two such groups cancel, also through activations and carriers, which give the same values in either type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.errors import PlanError
from fewbits.formats.floating import BF16, FP16
from fewbits.formats.scaled import Format
from fewbits.formats.scheme import Scheme
from fewbits.grouping import ABSORBED, CARRIERS, Group
from fewbits.models.onnx_kinds import kind
from fewbits.models.onnx_names import Names, array_of, insert_after


@dataclass(frozen=True, slots=True)
class _Small:
    """A small float in ONNX's words and numpy's, and the largest number in it."""

    type: ir.DataType
    dtype: np.dtype[np.generic]
    end: float


_FORMATS: Mapping[Format | None, _Small] = {
    BF16: _Small(ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16), BF16.max),
    FP16: _Small(ir.DataType.FLOAT16, np.dtype(np.float16), FP16.max),
}
_TYPES = frozenset(small.type for small in _FORMATS.values())
_THROUGH = CARRIERS | ABSORBED
_Key = tuple[ir.Value, ir.DataType, bool]


class CastOperands(ir.passes.InPlacePass):
    """Casts the operands of the groups that `schemes` gives a small float, and their results back to float32.

    `wide_weights`: constants stay in float32, and are cast at every call.
    """

    def __init__(self, groups: Mapping[str, Group], schemes: Mapping[str, Scheme], *, wide_weights: bool) -> None:
        super().__init__()
        self._groups = groups
        self._wide_weights = wide_weights
        self._schemes = {name: scheme for name, scheme in schemes.items() if scheme.is_cast}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was cast.

        Raises:
            PlanError: a weight or bias has values that the format does not reach.
        """
        names = Names(model)
        nodes = {str(node.name): node for node in model.graph}
        stored: dict[_Key, ir.Value] = {}
        for name, scheme in self._schemes.items():
            small = _FORMATS[scheme.weight]
            members = [nodes[one] for one in self._groups[name].nodes]
            for node in members:
                _cast_operands(model, names, node, small, stored, wide_weights=self._wide_weights)
                node.outputs[0].type = ir.TensorType(small.type)
            _give_float(model, names, members[-1], small.type)
        return ir.passes.PassResult(model, bool(self._schemes))


class CancelCasts(ir.passes.InPlacePass):
    """Takes out casts to float32 and back to the same type, at once or behind what does not change values."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether any cast is gone."""
        before = len(model.graph)
        for node in [node for node in model.graph if _is_widening(node)]:
            _cancel(model, node)
        return ir.passes.PassResult(model, len(model.graph) != before)


def _cast_operands(
    model: ir.Model,
    names: Names,
    node: ir.Node,
    small: _Small,
    stored: dict[_Key, ir.Value],
    *,
    wide_weights: bool,
) -> None:
    # Where a Clip ends is no factor of anything: the format's own end is as good.
    saturates = node.op_type == "Clip"
    for index, value in enumerate(node.inputs):
        # What an operator of another domain gives has no known type; the group computes in float32, so it is that.
        if value is None or value.dtype not in (ir.DataType.FLOAT, None):
            continue
        key = (value, small.type, saturates)
        if key not in stored:
            if value.const_value is None or (wide_weights and not saturates):
                stored[key] = _cast(model, names, value, small.type)
            else:
                array = _rounded(node, value, small, saturates=saturates)
                stored[key] = names.constant(f"{value.name}.{small.dtype.name}", array)
        node.replace_input_with(index, stored[key])


def _cast(model: ir.Model, names: Names, value: ir.Value, to: ir.DataType) -> ir.Value:
    name = f"{value.name}.{to.name.lower()}"
    cast = names.node("Cast", [value], name, f"{name}.quantize", {"to": int(to)})
    cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(to)
    insert_after(model, value, cast)
    return cast.outputs[0]


def _rounded(node: ir.Node, value: ir.Value, small: _Small, *, saturates: bool) -> Array:
    array = array_of(value)
    if saturates:
        array = np.clip(array, -small.end, small.end)
    with np.errstate(over="ignore"):
        rounded = array.astype(small.dtype)
    if not np.isfinite(rounded.astype(np.float32)).all():
        raise PlanError(
            f"the plan has {node.name} in {small.dtype.name}, but its constant {value.name} reaches "
            f"{np.abs(array).max():.3g}, which {small.dtype.name} does not; set it to fp32 or bf16"
        )
    return rounded


def _give_float(model: ir.Model, names: Names, node: ir.Node, low: ir.DataType) -> None:
    """Let a cast behind `node`, which gives `low`, give float32 under the name that the readers of `node` know."""
    result = node.outputs[0]
    name, uses = str(result.name), list(result.uses())
    back = names.node("Cast", [result], f"{name}.float", f"{name}.dequantize", {"to": int(ir.DataType.FLOAT)})
    wide = back.outputs[0]
    wide.shape, wide.type = result.shape, ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_after(node, back)
    for use in uses:
        use.node.replace_input_with(use.idx, wide)
    for index, output in enumerate(model.graph.outputs):
        if output is result:
            model.graph.outputs[index] = wide
    result.name, wide.name = f"{name}.{low.name.lower()}_result", name


def _cancel(model: ir.Model, wide: ir.Node) -> None:
    """Let whoever casts the result of `wide` back again, at once or behind what does not change values, read what
    `wide` reads."""
    low = wide.inputs[0]
    assert low is not None
    for use in list(wide.outputs[0].uses()):
        if _takes(use.node, use.idx, low.dtype):
            _narrow(model, use.node, low)


def _takes(node: ir.Node, index: int, to: ir.DataType | None) -> bool:
    """Whether `node` gives the same if its operand `index` has the type `to`: a cast to it, or an activation or
    carrier between such casts alone."""
    if _is_narrowing(node):
        return node.outputs[0].dtype is to and not node.outputs[0].is_graph_output()
    if kind(node.domain, node.op_type) not in _THROUGH or index != 0 or len(node.outputs) != 1:
        return False
    others = [value for value in node.inputs[1:] if value is not None and value.dtype is ir.DataType.FLOAT]
    result = node.outputs[0]
    uses = list(result.uses())
    return not others and not result.is_graph_output() and bool(uses) and all(_takes(u.node, u.idx, to) for u in uses)


def _narrow(model: ir.Model, node: ir.Node, low: ir.Value) -> None:
    if _is_narrowing(node):
        ir.convenience.replace_all_uses_with(node.outputs[0], low)
        model.graph.remove(node, safe=True)
        return
    node.replace_input_with(0, low)
    result = node.outputs[0]
    result.type = ir.TensorType(low.dtype or ir.DataType.UNDEFINED)
    for use in list(result.uses()):
        _narrow(model, use.node, result)


def _is_narrowing(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.outputs[0].dtype in _TYPES


def _is_widening(node: ir.Node) -> bool:
    given = node.inputs[0].dtype if node.op_type == "Cast" and node.inputs[0] is not None else None
    return given in _TYPES and node.outputs[0].dtype is ir.DataType.FLOAT
