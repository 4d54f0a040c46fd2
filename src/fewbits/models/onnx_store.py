"""Products by a constant matrix whose weight alone is in codes, or whose activation is coded anew at every call.

* In the plain form a weight stands behind a DequantizeLinear, per channel or (operator set 21) per block.
* For ONNX Runtime it becomes a MatMulNBits (com.microsoft): blocks along the depth, unsigned codes with the zero
  point in the middle, ``accuracy_level`` 4 (int8 products; without it the 8-bit kernel is many times slower).
* Dynamic activations: DynamicQuantizeLinear, MatMulInteger, and the scales behind it, which ONNX Runtime fuses.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fewbits.formats.granularity import Channel
from fewbits.formats.granularity import Group as Block
from fewbits.formats.numerics.affine import Affine, symmetric
from fewbits.formats.quantize import quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.models.onnx_names import Names, array_of, take_over
from fewbits.models.onnx_weights import weight_affine, weight_codes

_MICROSOFT = "com.microsoft"
_INT8_PRODUCTS = 4


class StoreWeights(ir.passes.InPlacePass):
    """Rewrites the MatMul nodes that `schemes` names, whose schemes are weight-only or dynamic.

    `blocks`: write weight-only products as MatMulNBits.
    """

    def __init__(self, schemes: Mapping[str, Scheme], *, blocks: bool) -> None:
        super().__init__()
        self._schemes = {name: scheme for name, scheme in schemes.items() if scheme.is_weight_only or scheme.dynamic}
        self._blocks = blocks

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was rewritten."""
        names = Names(model)
        for node in list(model.graph):
            scheme = self._schemes.get(str(node.name))
            if scheme is None or not isinstance(scheme.weight, ScaledFormat) or node.op_type != "MatMul":
                continue
            if scheme.dynamic:
                _write_dynamic(model, names, node, scheme.weight)
            elif not isinstance(scheme.weight.granularity, Block):
                _write_decoded(model, names, node, scheme.weight)
            elif self._blocks:
                _write_blocks(model, names, node, scheme.weight, scheme.weight.granularity)
            else:
                _write_decoded_blocks(model, names, node, scheme.weight, scheme.weight.granularity)
        return ir.passes.PassResult(model, bool(self._schemes))


def _channel_codes(node: ir.Node, weight: ScaledFormat) -> tuple[NDArray[np.int8], Affine]:
    values = array_of(node.inputs[1]).astype(np.float32)
    affine = weight_affine(values, weight, 1, None, 1.0)
    return weight_codes(values, affine).astype(np.int8), affine


def _write_decoded(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat) -> None:
    codes, affine = _channel_codes(node, weight)
    name = f"{node.name}.weight"
    stored = [
        names.constant(f"{name}.codes", codes),
        names.constant(f"{name}.scale", affine.scale),
        names.constant(f"{name}.zero_point", affine.zero_point.astype(np.int8)),
    ]
    per_channel = isinstance(weight.granularity, Channel)
    _decode(model, names, node, stored, {"axis": 1} if per_channel else {})


def _write_decoded_blocks(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat, block: Block) -> None:
    codes, scales = _block_codes(node, weight, block)
    columns, count, _ = codes.shape
    dtype = np.dtype(np.int8) if integer(weight).bits > 4 else np.dtype(ml_dtypes.int4)
    name = f"{node.name}.weight"
    stored = [
        names.constant(f"{name}.codes", codes.reshape(columns, count * block.size).T.astype(dtype)),
        names.constant(f"{name}.scale", scales.T),
    ]
    _decode(model, names, node, stored, {"axis": 0, "block_size": block.size})


def _decode(
    model: ir.Model, names: Names, node: ir.Node, stored: list[ir.Value], attributes: Mapping[str, int]
) -> None:
    """Let `node` read its weight through a DequantizeLinear of `stored`."""
    name = f"{node.name}.weight"
    decoder = names.node("DequantizeLinear", stored, f"{name}.decoded", f"{name}.dequantize", attributes)
    decoder.outputs[0].shape = stored[0].shape
    decoder.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_before(node, decoder)
    node.replace_input_with(1, decoder.outputs[0])


def _block_codes(node: ir.Node, weight: ScaledFormat, block: Block) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Signed codes (columns, blocks, members), and scales (columns, blocks)."""
    values = np.ascontiguousarray(array_of(node.inputs[1]).astype(np.float32).T)
    columns, depth = values.shape
    blocked = values.reshape(columns * (depth // block.size), block.size)
    largest = np.abs(blocked).max(axis=1)
    # Kernels take the zero point out of a sum at the end: what is left of a block of zeros grows with its scale.
    largest = np.where(largest > 0, largest, largest.min(initial=1, where=largest > 0))
    scales = symmetric(largest, integer(weight)).scale
    codes = quantize(blocked, ScaledFormat(integer(weight), Channel(0)), scale=scales[:, None]).codes
    return codes.astype(np.int8).reshape(columns, -1, block.size), scales.reshape(columns, -1)


def _write_blocks(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat, block: Block) -> None:
    codes, scales = _block_codes(node, weight, block)
    columns, count, _ = codes.shape
    bits = integer(weight).bits
    unsigned = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    # Two codes of 4 bits share a byte, the first in the low half.
    packed = unsigned if bits == 8 else unsigned[..., 0::2] | (unsigned[..., 1::2] << 4)
    name = f"{node.name}.weight"
    inputs = [node.inputs[0], names.constant(f"{name}.codes", packed), names.constant(f"{name}.scale", scales)]
    attributes = {
        "K": count * block.size,
        "N": columns,
        "bits": bits,
        "block_size": block.size,
        "accuracy_level": _INT8_PRODUCTS,
    }
    made = names.node("MatMulNBits", inputs, f"{node.name}.product", f"{node.name}.blocks", attributes)
    made.domain = _MICROSOFT
    model.graph.opset_imports.setdefault(_MICROSOFT, 1)
    _replace(model, node, made)


def _write_dynamic(model: ir.Model, names: Names, node: ir.Node, weight: ScaledFormat) -> None:
    codes, affine = _channel_codes(node, weight)
    source, name = node.inputs[0], str(node.name)
    assert source is not None
    coder = ir.node("DynamicQuantizeLinear", [source], name=f"{name}.quantize", num_outputs=3)
    for value, part in zip(coder.outputs, ("codes", "scale", "zero_point"), strict=True):
        value.name = f"{name}.activation.{part}"
    product = names.node(
        "MatMulInteger",
        [
            coder.outputs[0],
            names.constant(f"{name}.weight.codes", codes),
            coder.outputs[2],
            names.constant(f"{name}.weight.zero_point", affine.zero_point.astype(np.int8)),
        ],
        f"{name}.sums",
        f"{name}.integer",
    )
    wide = names.node("Cast", [product.outputs[0]], f"{name}.float", f"{name}.to_float", {"to": int(ir.DataType.FLOAT)})
    weight_scale = names.constant(f"{name}.weight.scale", affine.scale)
    both = names.node("Mul", [coder.outputs[1], weight_scale], f"{name}.scale", f"{name}.scales")
    scaled = names.node("Mul", [wide.outputs[0], both.outputs[0]], f"{name}.product", f"{name}.scaled")
    model.graph.insert_before(node, [coder, product, wide, both])
    _replace(model, node, scaled)


def _replace(model: ir.Model, node: ir.Node, made: ir.Node) -> None:
    """`made` in the place of `node`, under its name."""
    model.graph.insert_before(node, made)
    take_over(node.outputs[0], made.outputs[0])
    name = node.name
    model.graph.remove(node, safe=True)
    made.name = name
