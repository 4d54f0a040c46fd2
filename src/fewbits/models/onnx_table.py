"""Tables whose rows are looked up (embeddings) as 8-bit codes with one scale per row.

Codes and scales are looked up with the same indices, and only the rows that were found are decoded.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.models.onnx_names import Names, array_of, take_over
from fewbits.models.onnx_weights import weight_affine, weight_codes


class CodeTables(ir.passes.InPlacePass):
    """Rewrites the Gather nodes that `schemes` names, whose schemes are of the weight alone."""

    def __init__(self, schemes: Mapping[str, Scheme]) -> None:
        super().__init__()
        self._schemes = {name: scheme.weight for name, scheme in schemes.items() if scheme.is_weight_only}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was rewritten."""
        names = Names(model)
        modified = False
        for node in list(model.graph):
            weight = self._schemes.get(str(node.name))
            if node.op_type == "Gather" and isinstance(weight, ScaledFormat):
                _rewrite(model, names, node, weight)
                modified = True
        return ir.passes.PassResult(model, modified)


def _rewrite(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat) -> None:
    table = array_of(node.inputs[0]).astype(np.float32, copy=False)
    affine = weight_affine(table, weight, 0, None, 1.0)
    codes, scales = weight_codes(table, affine).astype(np.int8), affine.scale[:, None]
    name, rows = str(node.name), node.inputs[1]
    found, scale = (
        names.node(
            "Gather", [names.constant(f"{name}.{what}", array), rows], f"{name}.found_{what}", f"{name}.of_{what}"
        )
        for what, array in (("codes", codes), ("scales", scales))
    )
    wide = names.node("Cast", [found.outputs[0]], f"{name}.float", f"{name}.to_float", {"to": int(ir.DataType.FLOAT)})
    scaled = names.node("Mul", [wide.outputs[0], scale.outputs[0]], f"{name}.rows", f"{name}.scaled")
    model.graph.insert_before(node, [found, scale, wide, scaled])
    take_over(node.outputs[0], scaled.outputs[0])
    model.graph.remove(node, safe=True)
    scaled.name = name
