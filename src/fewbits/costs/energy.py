"""Energy per operation in a 45 nm process.

Source: Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9: in picojoules,
multiplications int8 0.2, int32 3.1, fp16 1.1, fp32 3.7; additions int8 0.03, int32 0.1, fp16 0.4, fp32 0.9; 64 bits
from a cache of 32 kB 20, from DRAM 1300 to 2600.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fewbits.costs.model import LayerSpec, Width, bits_of, is_integer, refuse
from fewbits.costs.storage import traffic_bits, weight_bits
from fewbits.formats.floating import FP16, FP32
from fewbits.formats.scaled import Format, element_of

_PICO = 1e-12
_INT8_MULTIPLY, _INT32_MULTIPLY, _INT32_ADD = 0.2e-12, 3.1e-12, 0.1e-12
_FLOATS: Mapping[Format, float] = {FP16: 1.1 * _PICO + 0.4 * _PICO, FP32: 3.7 * _PICO + 0.9 * _PICO}
# Through both published multiplications: 0.989, for an array of single-bit cells it would be 1.
_GROWTH: float = math.log(_INT32_MULTIPLY / _INT8_MULTIPLY) / math.log(32 * 32 / (8 * 8))


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules: products with accumulation in 32 bits, weights from a memory that takes `weight_access` joules for 64
    bits, activations from and to one that takes `activation_access`; by default DRAM and a cache of 32 kB.

    An integer multiplication of w by a bits grows with w * a, through the published ones for 8 and for 32 bits.
    """

    weight_access: float = 1300e-12
    activation_access: float = 20e-12
    unit: str = "J"
    additive: bool = True

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Integers with integers, fp16 and fp32 with each other."""
        return (is_integer(w) and is_integer(a)) or (_is_float(w) and _is_float(a))

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """Joules; see `CostModel.cost`."""
        if not self.supports(layer.op, w, a):
            raise refuse("the energy model", layer, w, a, "two integers, or two of fp16 and fp32")
        moved = weight_bits(layer, w) * self.weight_access + traffic_bits(layer, w, a, o) * self.activation_access
        return layer.macs * multiply_accumulate(w, a) + moved / 64


def multiply_accumulate(w: Width, a: Width) -> float:
    """Joules of one product and its accumulation; two floats are multiplied in the wider format."""
    if is_integer(w) and is_integer(a):
        return _INT8_MULTIPLY * math.pow(bits_of(w) * bits_of(a) / 64, _GROWTH) + _INT32_ADD
    return _FLOATS[FP32 if bits_of(w) > 16 or bits_of(a) > 16 else FP16]


def _is_float(width: Width) -> bool:
    return not isinstance(width, int) and element_of(width) in _FLOATS
