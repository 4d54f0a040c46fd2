"""Products by a constant matrix whose weight is in codes with one scale for each block of neighbours along the depth.

For ONNX Runtime such a product is a MatMulNBits (com.microsoft): unsigned codes, symmetric ones with the zero point in
the middle, ``accuracy_level`` 4 (int8 products; without it the 8-bit kernel is many times slower). Others read the
weight through a DequantizeLinear with blocks (operator set 21).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.errors import PlanError
from fewbits.formats.granularity import Group as Block
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.scales import per_element
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import integer
from fewbits.models.onnx_names import Names, array_of, take_over

_MICROSOFT: Final = "com.microsoft"
_INT8_PRODUCTS: Final = 4
_PART: Final = 1 << 22
"""Elements that are rounded at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Codes (depth, columns) of `format`, scales and zero points (depth / size, columns)."""

    codes: Array
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int32]
    format: IntFormat
    size: int
    asymmetric: bool


def blocks_of(node: ir.Node, weight: ScaledFormat, block: Block, given: QTensor[Array] | None) -> Blocks:
    """The weight of `node` in the format `weight`: the codes that are `given`, or rounded to nearest. Raises PlanError
    if the codes are not of its shape."""
    values = array_of(node.inputs[1]).astype(np.float32, copy=False)
    if given is not None and given.shape != values.shape:
        raise PlanError(
            f"the plan's codes for the weight of {node.name} have shape {given.shape}, the weight has {values.shape}; "
            "they were made for another model"
        )
    # Rounding takes several times the memory of what it rounds; blocks know nothing of each other.
    step = max(1, _PART // (block.size * max(1, values.shape[1]))) * block.size
    starts = range(0, len(values), step)
    parts = [quantize(values[s : s + step], weight) for s in starts] if given is None else [given]
    used = np.concatenate([_used(part, block) for part in parts])
    scale = np.concatenate([part.scale for part in parts])
    least = scale.min(initial=np.inf, where=used)
    # Kernels take the zero point out of a sum at the end: what is left of a block of zeros grows with its scale.
    scales = np.where(used, scale, least if np.isfinite(least) else 1.0).astype(np.float32)
    codes = np.concatenate([part.codes for part in parts])
    zeros = np.concatenate([np.broadcast_to(part.zero_point, part.scale.shape) for part in parts])
    return Blocks(codes, scales, zeros.astype(np.int32), integer(weight), block.size, bool(weight.asymmetric))


def _used(part: QTensor[Array], block: Block) -> NDArray[np.bool_]:
    """Whether a block has codes that do not stand for zero."""
    away = part.codes != per_element(part.zero_point, part.tile, part.shape)
    return np.asarray(away.reshape(-1, block.size, part.shape[1]).any(axis=1))


def write_decoded(model: ir.Model, names: Names, node: ir.Node, found: Blocks) -> None:
    """Let `node` read its weight through a DequantizeLinear of the codes that were `found`."""
    small = ml_dtypes.int4 if found.format.signed else ml_dtypes.uint4
    wide = np.int8 if found.format.signed else np.uint8
    dtype = np.dtype(wide if found.format.bits > 4 else small)
    name = f"{node.name}.weight"
    stored = [names.constant(f"{name}.codes", found.codes.astype(dtype)), names.constant(f"{name}.scale", found.scales)]
    if found.asymmetric:
        stored.append(names.constant(f"{name}.zero_point", found.zero_points.astype(dtype)))
    decode(model, names, node, stored, {"axis": 0, "block_size": found.size})


def write_blocks(model: ir.Model, names: Names, node: ir.Node, found: Blocks) -> None:
    """Put a MatMulNBits of the codes that were `found` in the place of `node`."""
    bits, (depth, columns) = found.format.bits, found.codes.shape
    middle = 1 << (bits - 1) if found.format.signed else 0
    # Modulo 256, which moves signed codes up without wider ones between.
    codes = (found.codes.T.astype(np.uint8) + np.uint8(middle)).reshape(columns, -1, found.size)
    name = f"{node.name}.weight"
    inputs = [
        node.inputs[0],
        names.constant(f"{name}.codes", _packed(codes, bits)),
        names.constant(f"{name}.scale", np.ascontiguousarray(found.scales.T)),
    ]
    if found.asymmetric:
        zeros = found.zero_points.T.astype(np.uint8)
        odd = zeros.shape[1] % 2 if bits == 4 else 0
        inputs.append(names.constant(f"{name}.zero_point", _packed(np.pad(zeros, ((0, 0), (0, odd))), bits)))
    attributes = {
        "K": depth,
        "N": columns,
        "bits": bits,
        "block_size": found.size,
        "accuracy_level": _INT8_PRODUCTS,
    }
    made = names.node("MatMulNBits", inputs, f"{node.name}.product", f"{node.name}.blocks", attributes)
    made.domain = _MICROSOFT
    model.graph.opset_imports.setdefault(_MICROSOFT, 1)
    replace(model, node, made)


def decode(
    model: ir.Model,
    names: Names,
    node: ir.Node,
    stored: list[ir.Value],
    attributes: Mapping[str, int],
    place: int = 1,
) -> None:
    """Let `node` read its weight, its input at `place`, through a DequantizeLinear of `stored`."""
    name = f"{node.name}.weight"
    decoder = names.node("DequantizeLinear", stored, f"{name}.decoded", f"{name}.dequantize", attributes)
    decoder.outputs[0].shape = stored[0].shape
    decoder.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_before(node, decoder)
    node.replace_input_with(place, decoder.outputs[0])


def replace(model: ir.Model, node: ir.Node, made: ir.Node) -> None:
    """`made` in the place of `node`, under its name."""
    model.graph.insert_before(node, made)
    take_over(node.outputs[0], made.outputs[0])
    name = node.name
    model.graph.remove(node, safe=True)
    made.name = name


def _packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Two codes of 4 bits share a byte, the first in the low half."""
    return codes if bits == 8 else np.bitwise_or(codes[..., 0::2], codes[..., 1::2] << 4, dtype=np.uint8)
