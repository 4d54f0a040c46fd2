"""Roofline: a layer takes as long as its arithmetic or its memory traffic, whichever is more.

Sources: Williams, Waterman, Patterson, CACM 52(4), 2009; with bit operations in place of floating-point ones it
divides layers as the look-up tables of HAQ do (Wang et al., CVPR 2019): some scale with both widths, in others the
width of the weight does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.costs.model import LayerSpec, Width, bits_of
from fewbits.costs.storage import traffic_bits, weight_bits
from fewbits.errors import UsageError


@dataclass(frozen=True, slots=True)
class Roofline:
    """Seconds on hardware with a peak of `bit_operations` (products times the bits of both operands) and a memory
    bandwidth of `bandwidth` bytes, both per second. Raises UsageError unless both are positive."""

    bit_operations: float
    bandwidth: float
    unit: str = "s"
    additive: bool = True

    def __post_init__(self) -> None:
        if not (self.bit_operations > 0 and self.bandwidth > 0):
            raise UsageError(
                f"a roofline has a positive peak and bandwidth, not {self.bit_operations} and {self.bandwidth}"
            )

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Always: the hardware multiplies bit by bit."""
        return True

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """Seconds; see `CostModel.cost`."""
        return max(self.compute(layer, w, a), self.memory(layer, w, a, o))

    def compute(self, layer: LayerSpec, w: Width, a: Width) -> float:
        """Seconds of the arithmetic alone."""
        return layer.macs * bits_of(w) * bits_of(a) / self.bit_operations

    def memory(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """Seconds of the memory traffic alone."""
        return (weight_bits(layer, w) + traffic_bits(layer, w, a, o)) / 8 / self.bandwidth
