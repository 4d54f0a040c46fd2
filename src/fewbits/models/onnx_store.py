"""Products by a constant matrix whose weight alone is in codes, or whose activation is coded anew at every call.

* A weight in codes per channel stands behind a DequantizeLinear; in blocks see `onnx_blocks`.
* Dynamic activations: DynamicQuantizeLinear, MatMulInteger, and the scales behind it, which ONNX Runtime fuses.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fewbits.codes import Codes
from fewbits.data.batches import Array
from fewbits.formats.granularity import Channel
from fewbits.formats.granularity import Group as Block
from fewbits.formats.numerics.affine import Affine
from fewbits.formats.qtensor import QTensor
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.models.onnx_blocks import blocks_of, decode, replace, write_blocks, write_decoded
from fewbits.models.onnx_names import Names, array_of
from fewbits.models.onnx_weights import rounded_weight
from fewbits.models.weight_codes import weight_affine, weight_codes

_MIDDLE = 128


class StoreWeights(ir.passes.InPlacePass):
    """Rewrites the MatMul nodes that `schemes` names, whose schemes are weight-only or dynamic.

    `codes`: those of weights that are not to round to nearest, by node. `blocks`: write weight-only products
    as MatMulNBits.
    """

    def __init__(self, schemes: Mapping[str, Scheme], codes: Codes, *, blocks: bool) -> None:
        super().__init__()
        self._codes = codes
        self._schemes = {name: scheme for name, scheme in schemes.items() if scheme.is_weight_only or scheme.dynamic}
        self._blocks = blocks

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was rewritten. Raises PlanError if codes do not fit."""
        names = Names(model)
        for node in list(model.graph):
            scheme = self._schemes.get(str(node.name))
            if scheme is None or not isinstance(scheme.weight, ScaledFormat) or node.op_type != "MatMul":
                continue
            given = self._codes.get(str(node.name))
            if scheme.dynamic:
                _write_dynamic(model, names, node, scheme.weight, given)
            elif not isinstance(scheme.weight.granularity, Block):
                _write_decoded(model, names, node, scheme.weight, given)
            else:
                found = blocks_of(node, scheme.weight, scheme.weight.granularity, given)
                (write_blocks if self._blocks else write_decoded)(model, names, node, found)
        return ir.passes.PassResult(model, bool(self._schemes))


def _channel_codes(
    node: ir.Node, weight: ScaledFormat, given: QTensor[Array] | None, place: int = 1
) -> tuple[NDArray[np.int8], Affine]:
    found = rounded_weight(node, array_of(node.inputs[place]).astype(np.float32, copy=False), 1, given)
    affine = weight_affine(found.values, weight, 1, None, 1.0, found.scale)
    return weight_codes(found.values, affine).astype(np.int8), affine


def _write_decoded(
    model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat, given: QTensor[Array] | None
) -> None:
    codes, affine = _channel_codes(node, weight, given)
    name = f"{node.name}.weight"
    stored = [
        names.constant(f"{name}.codes", codes),
        names.constant(f"{name}.scale", affine.scale),
        names.constant(f"{name}.zero_point", affine.zero_point.astype(np.int8)),
    ]
    per_channel = isinstance(weight.granularity, Channel)
    decode(model, names, node, stored, {"axis": 1} if per_channel else {})


def _write_dynamic(
    model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat, given: QTensor[Array] | None
) -> None:
    constant_first = node.inputs[0] is not None and node.inputs[0].const_value is not None
    codes, affine = _channel_codes(node, weight, given, 0 if constant_first else 1)
    zero = affine.zero_point.astype(np.int8)
    if constant_first:
        # Kernels want unsigned codes first.
        codes, zero = (codes.astype(np.int16) + _MIDDLE).astype(np.uint8), (zero + np.int16(_MIDDLE)).astype(np.uint8)
    source, name = node.inputs[1 if constant_first else 0], str(node.name)
    assert source is not None
    coder = ir.node("DynamicQuantizeLinear", [source], name=f"{name}.quantize", num_outputs=3)
    for value, part in zip(coder.outputs, ("codes", "scale", "zero_point"), strict=True):
        value.name = f"{name}.activation.{part}"
    stored = [names.constant(f"{name}.weight.codes", codes), names.constant(f"{name}.weight.zero_point", zero)]
    found = [coder.outputs[0], coder.outputs[2]]
    pairs = zip(stored, found, strict=True) if constant_first else zip(found, stored, strict=True)
    product = names.node(
        "MatMulInteger", [value for pair in pairs for value in pair], f"{name}.sums", f"{name}.integer"
    )
    wide = names.node("Cast", [product.outputs[0]], f"{name}.float", f"{name}.to_float", {"to": int(ir.DataType.FLOAT)})
    weight_scale = names.constant(f"{name}.weight.scale", affine.scale)
    both = names.node("Mul", [coder.outputs[1], weight_scale], f"{name}.scale", f"{name}.scales")
    scaled = names.node("Mul", [wide.outputs[0], both.outputs[0]], f"{name}.product", f"{name}.scaled")
    model.graph.insert_before(node, [coder, product, wide, both])
    replace(model, node, scaled)
