"""An inner-product unit of small multipliers that takes wider operands in several passes.

Source: Abdel-Aziz et al., "Rethinking Floating Point Overheads for Mixed Precision DNN Accelerators", MLSys 2021:
operands are cut into nibbles, fp16 takes 3 x 3 passes. Other widths follow from the same cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.costs.model import LayerSpec, Width, bits_of, is_integer, refuse
from fewbits.errors import UsageError
from fewbits.formats.floating import FP16, FloatFormat
from fewbits.formats.scaled import element_of


@dataclass(frozen=True, slots=True)
class InnerProductUnit:
    """Cycles on a unit of `lanes` multipliers of `multiplier` bits each. Raises UsageError unless both are positive."""

    multiplier: int = 4
    lanes: int = 16
    unit: str = "cycles"
    additive: bool = True

    def __post_init__(self) -> None:
        if self.multiplier < 1 or self.lanes < 1:
            raise UsageError(f"a unit has positive lanes and bits, not {self.lanes} and {self.multiplier}")

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Integers, and floats whose significand is at most fp16's."""
        return _multiplies(w) and _multiplies(a)

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """Cycles; see `CostModel.cost`."""
        if not self.supports(layer.op, w, a):
            raise refuse("the inner-product unit", layer, w, a, "integers, and floats up to the significand of fp16")
        return self.passes(w) * self.passes(a) * layer.macs / self.lanes

    def passes(self, width: Width) -> int:
        """Pieces that an operand is cut into: those of its bits, or of a float's signed significand."""
        return -(-_multiplied_bits(width) // self.multiplier)


def _multiplies(width: Width) -> bool:
    if is_integer(width):
        return True
    return (
        not isinstance(width, int)
        and isinstance(element_of(width), FloatFormat)
        and (_multiplied_bits(width) <= _multiplied_bits(FP16))
    )


def _multiplied_bits(width: Width) -> int:
    element = width if isinstance(width, int) else element_of(width)
    # The sign and the leading one that is not stored, besides the mantissa.
    return element.mantissa_bits + 2 if isinstance(element, FloatFormat) else bits_of(width)
