"""Codes of four bits, two to a byte, and the operators that decode them.

They are operators of any operator set, where a type of four bits needs set 21. ONNX Runtime's own look-up in tables of
four bits, GatherBlockQuantized (com.microsoft), gives the same values but took several times as long as these together.
The two codes of a byte are half a block apart, the earlier one in the low half, so that a block is two halves joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.formats.granularity import Group
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import integer
from fewbits.models.onnx_names import Names

BITS: Final = 4
_LEVELS: Final = 1 << BITS


@dataclass(frozen=True, slots=True, eq=False)
class Nibbles:
    """An array (…, width) as `codes` uint8 (…, blocks, size / 2), `scales` float32 (…, blocks, 1) and `zero_points`
    uint8 (…, blocks, 1), all without the axis of the blocks where a row is one block. The size of a block is even: a
    longer row than `width` ends in codes that mean nothing."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8]
    width: int
    blocks: int
    asymmetric: bool


def nibbles(values: Array, weight: ScaledFormat) -> Nibbles:
    """`values` in the format `weight`, of four bits, with a scale for every row or for blocks of the last axis that
    divide it."""
    found: QTensor[Array] = quantize(values.astype(np.float32), weight)
    *rows, width = found.shape
    blocks = width // weight.granularity.size if isinstance(weight.granularity, Group) else 1
    middle = _LEVELS // 2 if integer(weight).signed else 0
    shape = (*rows, blocks, 1) if blocks > 1 else (*rows, 1)
    codes = (found.codes.astype(np.int16) + middle).astype(np.uint8)
    codes = np.pad(codes, [(0, 0)] * len(rows) + [(0, width % 2)]).reshape(*shape[:-1], -1)
    half = codes.shape[-1] // 2
    packed = np.bitwise_or(codes[..., :half], codes[..., half:] << BITS, dtype=np.uint8)
    zero_points = (found.zero_point + middle).astype(np.uint8).reshape(shape)
    return Nibbles(packed, found.scale.reshape(shape), zero_points, width, blocks, bool(weight.asymmetric))


def decoding(
    names: Names, prefix: str, codes: ir.Value, scales: ir.Value, zero_points: ir.Value | None
) -> list[ir.Node]:
    """Nodes of which the last gives ``(code - zero point) * scale``, blocks of the last axis; 8 stands for an absent
    zero point. All intermediate numbers are exact, so that the result is that of one float32 product."""

    def constant(number: float) -> ir.Value:
        return names.constant(f"{prefix}.{number}", np.array(number, np.float32))

    def node(op_type: str, inputs: list[ir.Value], what: str, **attributes: int) -> ir.Value:
        made = names.node(op_type, inputs, f"{prefix}.{what}", f"{prefix}.makes_{what}", attributes)
        nodes.append(made)
        return made.outputs[0]

    nodes: list[ir.Node] = []
    levels, to_float = constant(_LEVELS), int(ir.DataType.FLOAT)
    part = constant(1 / _LEVELS)
    split = node("Mul", [node("Cast", [codes], "bytes", to=to_float), part], "split")
    high = node("Floor", [split], "high")
    low = node("Sub", [split, high], "low")
    if zero_points is None:
        zero, zero_part = constant(_LEVELS // 2), constant(0.5)
    else:
        zero = node("Cast", [zero_points], "zero", to=to_float)
        zero_part = node("Mul", [zero, part], "zero_part")
    # The low half is sixteen times too small: a power of two, which its scale takes back.
    earlier = node(
        "Mul",
        [node("Sub", [low, zero_part], "low_centred"), node("Mul", [scales, levels], "low_scale")],
        "earlier",
    )
    later = node("Mul", [node("Sub", [high, zero], "high_centred"), scales], "later")
    node("Concat", [earlier, later], "decoded", axis=-1)
    return nodes
