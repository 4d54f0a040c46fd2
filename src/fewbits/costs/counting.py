"""Costs that are counted from sizes alone, whatever the hardware."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.costs.model import LayerSpec, Width, bits_of
from fewbits.costs.storage import traffic_bits, weight_bits


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of the weights with their scales; biases do not count, they are the same in every scheme."""

    unit: str = "bytes"
    additive: bool = True

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Always: anything can be stored."""
        return True

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """Bytes of the weight in `w`; see `CostModel.cost`."""
        return weight_bits(layer, w) / 8


@dataclass(frozen=True, slots=True)
class BitOperations:
    """Bit operations: products times the bits of both operands (Yao et al., HAWQ-V3, arXiv 2011.10680)."""

    unit: str = "bops"
    additive: bool = True

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Always: only bits are counted."""
        return True

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """``macs * w * a``; see `CostModel.cost`."""
        return float(layer.macs * bits_of(w) * bits_of(a))


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Bytes of inputs and output of the layer that has most of both (Rusci et al., arXiv 1905.13082).

    What a layer in a branch has to leave in memory for others is not seen here, but by `fewbits.costs.liveness`.
    """

    unit: str = "bytes"
    additive: bool = False

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Always: anything can be stored."""
        return True

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """Bytes of the activations that the layer reads and writes; see `CostModel.cost`."""
        return traffic_bits(layer, w, a, o) / 8
