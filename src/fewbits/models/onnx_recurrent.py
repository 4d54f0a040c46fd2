"""Recurrent layers in low precision.

* Dynamic: an LSTM whose matrices are int8 and whose inputs are coded anew at every step, as ONNX Runtime's operator.
* The matrices alone: LSTM, GRU and RNN read them through operators on constants that decode them, which both runtimes
  compute when they load the model. A DequantizeLinear ONNX Runtime would compute at every call.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.grouping import MATRICES
from fewbits.models.onnx_names import Names, array_of, take_over
from fewbits.models.onnx_nibbles import BITS, decoding, nibbles
from fewbits.models.weight_codes import weight_affine, weight_codes

_MICROSOFT = "com.microsoft"
_OPERATORS = ("LSTM", "GRU", "RNN")
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


class StoreRecurrent(ir.passes.InPlacePass):
    """Stores the matrices of the recurrent layers whose schemes, in `schemes`, are of the weight alone, as codes."""

    def __init__(self, schemes: Mapping[str, Scheme]) -> None:
        super().__init__()
        self._schemes = {name: scheme.weight for name, scheme in schemes.items() if scheme.is_weight_only}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was rewritten."""
        names = Names(model)
        modified = False
        for node in list(model.graph):
            weight = self._schemes.get(str(node.name))
            if node.op_type not in _OPERATORS or not isinstance(weight, ScaledFormat):
                continue
            write = _decode_nibbles if integer(weight).bits <= BITS else _decode_bytes
            for place, what in zip(MATRICES, ("input", "recurrence"), strict=True):
                write(model, names, node, place, f"{node.name}.{what}", weight)
            modified = True
        return ir.passes.PassResult(model, modified)


def _decode_bytes(model: ir.Model, names: Names, node: ir.Node, place: int, name: str, weight: ScaledFormat) -> None:
    codes, scale = matrix_codes(array_of(node.inputs[place]).astype(np.float32), weight)
    stored = names.constant(f"{name}.codes", codes.transpose(0, 2, 1))
    scales = names.constant(f"{name}.scale", scale.reshape(scale.shape[0], -1, 1))
    wide = names.node("Cast", [stored], f"{name}.float", f"{name}.to_float", {"to": int(ir.DataType.FLOAT)})
    decoded = names.node("Mul", [wide.outputs[0], scales], f"{name}.decoded", f"{name}.scaled")
    _read(model, node, place, [wide, decoded])


def _decode_nibbles(model: ir.Model, names: Names, node: ir.Node, place: int, name: str, weight: ScaledFormat) -> None:
    matrix = array_of(node.inputs[place])
    stored = nibbles(matrix, weight)
    arrays: dict[str, Array] = {"codes": stored.codes, "scale": stored.scales}
    if stored.asymmetric:
        arrays["zero_point"] = stored.zero_points
    values = {what: names.constant(f"{name}.{what}", array) for what, array in arrays.items()}
    made = decoding(names, name, values["codes"], values["scale"], values.get("zero_point"))
    if stored.blocks > 1:
        shape = names.constant(f"{name}.shape", np.array(matrix.shape))
        made.append(names.node("Reshape", [made[-1].outputs[0], shape], f"{name}.matrix", f"{name}.joined"))
    _read(model, node, place, made)


def _read(model: ir.Model, node: ir.Node, place: int, made: list[ir.Node]) -> None:
    """Let `node` read the result of the last of `made` at `place`."""
    matrix, decoded = node.inputs[place], made[-1].outputs[0]
    assert matrix is not None
    decoded.type, decoded.shape = matrix.type, matrix.shape
    model.graph.insert_before(node, made)
    node.replace_input_with(place, decoded)


def _rewrite(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat) -> None:
    inputs: list[ir.Value | None] = [*node.inputs, *[None] * (_INPUTS - len(node.inputs))]
    for place, what in zip(MATRICES, ("input", "recurrence"), strict=True):
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
