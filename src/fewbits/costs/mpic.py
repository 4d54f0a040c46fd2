"""MPIC: a RISC-V core whose dot products take operands of 2, 4 and 8 bits in all combinations.

Source: Ottavi et al., "A Mixed-Precision RISC-V Processor for Extreme-Edge DNN Inference", arXiv 2010.04073; the
table, the clock and the power are those that PLiNIO (Politecnico di Torino) uses for it. Bits saved on one operand
alone are worth little here: the wider operand sets the pace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fewbits.costs.model import LayerSpec, Width, bits_of, is_integer, refuse

MACS_PER_CYCLE: Mapping[tuple[int, int], float] = {
    (2, 2): 6.5,
    (2, 4): 4.0,
    (2, 8): 2.2,
    (4, 2): 3.9,
    (4, 4): 3.5,
    (4, 8): 2.1,
    (8, 2): 2.5,
    (8, 4): 2.3,
    (8, 8): 2.1,
}
"""(bits of the activation, bits of the weight) → products in a cycle."""

CLOCK = 250e6
"""Cycles per second."""
POWER = (5.30e-3 + 5.39e-3 + 5.46e-3 + 5.38e-3) / 4
"""Watts, the mean of four modes."""


@dataclass(frozen=True, slots=True)
class Mpic:
    """Cycles on MPIC."""

    unit: str = "cycles"
    additive: bool = True

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Integers of 2, 4 and 8 bits."""
        return is_integer(w) and is_integer(a) and (bits_of(a), bits_of(w)) in MACS_PER_CYCLE

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """Cycles; see `CostModel.cost`."""
        if not self.supports(layer.op, w, a):
            raise refuse("MPIC", layer, w, a, "integers of 2, 4 or 8 bits")
        return layer.macs / MACS_PER_CYCLE[bits_of(a), bits_of(w)]


@dataclass(frozen=True, slots=True)
class MpicEnergy:
    """Joules on MPIC: cycles at its clock, at its mean power."""

    unit: str = "J"
    additive: bool = True
    cycles: Mpic = field(default=Mpic())

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Integers of 2, 4 and 8 bits."""
        return self.cycles.supports(op, w, a)

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """Joules; see `CostModel.cost`."""
        return self.cycles.cost(layer, w, a, o) / CLOCK * POWER
