"""The operator set of a model: brought up by ONNX's version converter, or written anew where nothing changes meaning.

Conv and the pools take bf16 from 22 on, DequantizeLinear has channels from 13, blocks and four bits from 21 on.
"""

from __future__ import annotations

from typing import Final

import onnx
import onnx_ir as ir
from onnx import defs, version_converter

from fewbits.errors import ModelError, PlanError
from fewbits.models.onnx_annex import annex_of, attach
from fewbits.models.onnx_weightless import without_weights

_OPSET: Final = 22
_IR_VERSION: Final = 10
_SMALL: Final = {ir.DataType.BFLOAT16: "tensor(bfloat16)", ir.DataType.FLOAT16: "tensor(float16)"}
_FOUR_BITS: Final = (ir.DataType.INT4, ir.DataType.UINT4)
# Their attributes stayed the same, or got a default that is not what was computed before.
_OTHER_MEANING: Final = frozenset({"GroupNormalization", "RoiAlign"})


def upgraded(model: ir.Model, opset: int) -> ir.Model:
    """`model`, whose nodes are in order, in the later operator set `opset`. Large weights are shared with it.

    Raises:
        ModelError: the version converter does not know how.
    """
    try:
        with without_weights(model) as proto:
            made = ir.from_proto(version_converter.convert_version(proto, opset))
    except (RuntimeError, onnx.checker.ValidationError, version_converter.ConvertError) as error:
        # An assertion's text begins with the place in the converter's source.
        raise ModelError(str(error).splitlines()[0].rpartition("failed: ")[2]) from error
    weights, given = model.graph.initializers, {value.name for value in model.graph.inputs}
    for value in list(made.graph.inputs):
        if value.const_value is None and str(value.name) in weights:
            value.const_value = weights[str(value.name)].const_value
            made.graph.register_initializer(value)
    made.graph.inputs[:] = [value for value in made.graph.inputs if value.name in given]
    return attach(made, annex_of(model))


def raised(model: ir.Model) -> ir.Model:
    """`model`, whose nodes are in order, in operator set 22 if a node needs it; otherwise, as it is.

    Where neither another number nor the version converter will do, small floats are left as they are, since runtimes
    are more generous with types than ONNX is.

    Raises:
        PlanError: there are weights in blocks or of four bits, and the operator set cannot be raised.
    """
    opset = model.graph.opset_imports.get("", _OPSET)
    nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
    blocks = any(_has_blocks(node) for node in nodes)
    if opset >= _OPSET or not (blocks or any(_needs_another(node, opset) for node in nodes)):
        return model
    changed = sorted(op_type for op_type in {node.op_type for node in nodes} if not _means_the_same(op_type, opset))
    if changed:
        try:
            model = upgraded(model, _OPSET)
        except ModelError as error:
            if not blocks:
                return model
            raise PlanError(
                "the plan stores weights in blocks or in four bits, which ONNX has from operator set 21 on; the model "
                f"has {opset}, in which {', '.join(changed[:3])} mean something else, and cannot be brought up "
                f"({error}). Export it with operator set {_OPSET}, or set those groups to w:int8r/channel"
            ) from error
    model.graph.opset_imports[""] = _OPSET
    model.ir_version = max(model.ir_version or 0, _IR_VERSION)
    return model


def _has_blocks(node: ir.Node) -> bool:
    """Whether `node` decodes blocks, or codes of four bits."""
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    return codes is not None and ("block_size" in node.attributes or codes.dtype in _FOUR_BITS)


def _needs_another(node: ir.Node, opset: int) -> bool:
    """Whether `node` reads a small float that it does not take in `opset`."""
    given = [(index, value.dtype) for index, value in enumerate(node.inputs) if value is not None]
    small = [(index, _SMALL[dtype]) for index, dtype in given if dtype in _SMALL]
    if not small or not defs.has(node.op_type, opset):
        return False
    formal = defs.get_schema(node.op_type, opset).inputs
    # The last formal operand of some operators stands for any number of them.
    return any(text not in formal[min(index, len(formal) - 1)].types for index, text in small)


def _means_the_same(op_type: str, opset: int) -> bool:
    """Whether `op_type` of `opset` does in 22 what it did, for the types that it took: nothing but types and
    attributes with a default was added."""
    if not defs.has(op_type, opset) or not defs.has(op_type, _OPSET):
        return False
    old, new = defs.get_schema(op_type, opset), defs.get_schema(op_type, _OPSET)
    if old.since_version == new.since_version:
        return True
    if op_type in _OTHER_MEANING or new.deprecated:
        return False
    added = [attribute for name, attribute in new.attributes.items() if name not in old.attributes]
    return (
        [one.option for one in old.inputs] == [one.option for one in new.inputs]
        and [one.option for one in old.outputs] == [one.option for one in new.outputs]
        and all(name in new.attributes and _same(one, new.attributes[name]) for name, one in old.attributes.items())
        and all(attribute.default_value.type for attribute in added)
    )


def _same(one: defs.OpSchema.Attribute, other: defs.OpSchema.Attribute) -> bool:
    return (one.type, one.required, one.default_value) == (other.type, other.required, other.default_value)
