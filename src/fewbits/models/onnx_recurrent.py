"""LSTM layers whose weights are int8 and whose inputs are coded anew at every step, as ONNX Runtime's operator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.models.onnx_names import Names, array_of, take_over
from fewbits.models.onnx_weights import weight_affine, weight_codes

_MICROSOFT = "com.microsoft"
_INPUTS = 8
"""X, W, R, B, sequence_lens, initial_h, initial_c, P."""


class CodeRecurrent(ir.passes.InPlacePass):
    """Writes the LSTM nodes that `schemes` gives dynamic ranges as DynamicQuantizeLSTM (com.microsoft)."""

    def __init__(self, schemes: Mapping[str, Scheme]) -> None:
        super().__init__()
        self._schemes = {name: scheme.weight for name, scheme in schemes.items() if scheme.dynamic}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was rewritten."""
        names = Names(model)
        modified = False
        for node in list(model.graph):
            weight = self._schemes.get(str(node.name))
            if node.op_type == "LSTM" and isinstance(weight, ScaledFormat):
                _rewrite(model, names, node, weight)
                modified = True
        return ir.passes.PassResult(model, modified)


def _rewrite(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat) -> None:
    inputs: list[ir.Value | None] = [*node.inputs, *[None] * (_INPUTS - len(node.inputs))]
    for place, what in ((1, "input"), (2, "recurrence")):
        codes, scale = matrix_codes(array_of(node.inputs[place]).astype(np.float32), weight)
        name = f"{node.name}.{what}"
        inputs[place] = names.constant(f"{name}.codes", codes)
        inputs.append(names.constant(f"{name}.scale", scale))
        inputs.append(names.constant(f"{name}.zero_point", np.zeros(scale.shape, np.int8)))
    attributes = [value for key, value in node.attributes.items() if key != "layout"]
    made = ir.Node(_MICROSOFT, "DynamicQuantizeLSTM", inputs, attributes, num_outputs=len(node.outputs))
    model.graph.opset_imports.setdefault(_MICROSOFT, 1)
    model.graph.insert_before(node, made)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        take_over(old, new)
    model.graph.remove(node, safe=True)
    made.name = node.name


def matrix_codes(matrix: NDArray[np.float32], weight: ScaledFormat) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (directions, inputs, gates) of a matrix (directions, gates, inputs), and their scales: one per gate of
    each direction, or one per direction where `weight` has one for the whole matrix."""
    turned = np.ascontiguousarray(matrix.transpose(0, 2, 1))
    affines = [weight_affine(one, weight, 1, None, 1.0) for one in turned]
    codes = [weight_codes(one, affine) for one, affine in zip(turned, affines, strict=True)]
    return np.stack(codes).astype(np.int8), np.stack([affine.scale for affine in affines])
