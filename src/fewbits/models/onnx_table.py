"""Tables whose rows are looked up (embeddings) as codes: 8 bits with one scale per row, or 4 bits with one per row or
per block of a row.

Codes and scales are looked up with the same indices, and only the rows that were found are decoded. Where the runtime
does the same for a table behind a DequantizeLinear, codes of 4 bits stand behind one.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.formats.granularity import Group
from fewbits.formats.quantize import quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.models.onnx_blocks import decode
from fewbits.models.onnx_names import Names, array_of, take_over
from fewbits.models.onnx_nibbles import BITS, decoding, nibbles
from fewbits.models.weight_codes import weight_affine, weight_codes


class CodeTables(ir.passes.InPlacePass):
    """Rewrites the Gather nodes that `schemes` names, whose schemes are of the weight alone.

    `decoded`: tables of 4 bits stand behind a DequantizeLinear.
    """

    def __init__(self, schemes: Mapping[str, Scheme], *, decoded: bool) -> None:
        super().__init__()
        self._schemes = {name: scheme.weight for name, scheme in schemes.items() if scheme.is_weight_only}
        self._decoded = decoded

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was rewritten."""
        names = Names(model)
        modified = False
        for node in list(model.graph):
            weight = self._schemes.get(str(node.name))
            if node.op_type != "Gather" or not isinstance(weight, ScaledFormat):
                continue
            if integer(weight).bits > BITS:
                _look_up_bytes(model, names, node, weight)
            elif self._decoded:
                _decode_table(model, names, node, weight)
            else:
                _look_up_nibbles(model, names, node, weight)
            modified = True
        return ir.passes.PassResult(model, modified)


def _look_up_bytes(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat) -> None:
    table = array_of(node.inputs[0]).astype(np.float32, copy=False)
    affine = weight_affine(table, weight, 0, None, 1.0)
    codes, scales = weight_codes(table, affine).astype(np.int8), affine.scale[:, None]
    name = str(node.name)
    found, scale = (
        _found(names, node, what, names.constant(f"{name}.{what}", array))
        for what, array in (("codes", codes), ("scales", scales))
    )
    wide = names.node("Cast", [found.outputs[0]], f"{name}.float", f"{name}.to_float", {"to": int(ir.DataType.FLOAT)})
    scaled = names.node("Mul", [wide.outputs[0], scale.outputs[0]], f"{name}.rows", f"{name}.scaled")
    _replace(model, node, [found, scale, wide, scaled])


def _look_up_nibbles(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat) -> None:
    stored = nibbles(array_of(node.inputs[0]), weight)
    name = str(node.name)
    arrays: dict[str, Array] = {"codes": stored.codes, "scales": stored.scales}
    if stored.asymmetric:
        arrays["zero_points"] = stored.zero_points
    found = {what: _found(names, node, what, names.constant(f"{name}.{what}", array)) for what, array in arrays.items()}
    values = {what: one.outputs[0] for what, one in found.items()}
    made = [
        *found.values(),
        *decoding(names, name, values["codes"], values["scales"], values.get("zero_points")),
    ]
    rows, joined = node.inputs[1], made[-1].outputs[0]
    assert rows is not None and rows.shape is not None
    if stored.blocks > 1:
        # 0 keeps an axis as it is: those of the indices.
        shape = names.constant(f"{name}.shape", np.array([0] * len(rows.shape) + [stored.width]))
        made.append(names.node("Reshape", [joined, shape], f"{name}.rows", f"{name}.joined"))
    elif stored.width % 2:
        ends = [
            names.constant(f"{name}.{what}", np.array([number]))
            for what, number in (("first", 0), ("width", stored.width), ("axis", -1))
        ]
        made.append(names.node("Slice", [joined, *ends], f"{name}.rows", f"{name}.cut"))
    _replace(model, node, made)


def _decode_table(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat) -> None:
    found = quantize(array_of(node.inputs[0]).astype(np.float32), weight)
    dtype = np.dtype(ml_dtypes.int4 if integer(weight).signed else ml_dtypes.uint4)
    blocks = weight.granularity if isinstance(weight.granularity, Group) else None
    form = (-1,) if blocks is None else found.scale.shape
    name = f"{node.name}.weight"
    stored = [
        names.constant(f"{name}.codes", found.codes.astype(dtype)),
        names.constant(f"{name}.scale", found.scale.reshape(form)),
    ]
    if weight.asymmetric:
        stored.append(names.constant(f"{name}.zero_point", found.zero_point.reshape(form).astype(dtype)))
    decode(model, names, node, stored, {"axis": 0} if blocks is None else {"axis": 1, "block_size": blocks.size}, 0)


def _found(names: Names, node: ir.Node, what: str, table: ir.Value) -> ir.Node:
    return names.node("Gather", [table, node.inputs[1]], f"{node.name}.found_{what}", f"{node.name}.of_{what}")


def _replace(model: ir.Model, node: ir.Node, made: list[ir.Node]) -> None:
    """`made` in the place of `node`, whose name and result the last one takes over."""
    model.graph.insert_before(node, made)
    take_over(node.outputs[0], made[-1].outputs[0])
    name = node.name
    model.graph.remove(node, safe=True)
    made[-1].name = name
