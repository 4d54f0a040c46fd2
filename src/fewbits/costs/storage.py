"""Bits that an array takes when it is stored, its scales included."""

from __future__ import annotations

from math import prod

from fewbits.costs.model import LayerSpec, Width, bits_of
from fewbits.formats.describe import scale_bits
from fewbits.formats.floating import FP32
from fewbits.formats.granularity import Shape, tiles
from fewbits.formats.levels import KMeansFormat
from fewbits.formats.scaled import NestedScale, ScaledFormat


def stored_bits(width: Width, shape: Shape) -> int:
    """Bits of an array of `shape` in `width`: codes, scales, zero points, fitted tables. Raises FormatError if the
    scales do not fit `shape`."""
    count = prod(shape)
    codes = count * bits_of(width)
    if not isinstance(width, ScaledFormat) or not count:
        return codes
    each = scale_bits(width) + (width.bits if width.asymmetric else 0)
    if isinstance(width.element, KMeansFormat):
        each += FP32.bits << width.bits
    whole = FP32.bits if isinstance(width.scale, NestedScale) else 0
    return codes + prod(tiles(shape, width.granularity.tile(shape))) * each + whole


def weight_bits(layer: LayerSpec, w: Width) -> int:
    """Bits of the weight of `layer` in `w`, as a matrix: output channels by what is summed, so that groups of elements
    lie along the sum. Raises FormatError if the scales do not fit a matrix."""
    return stored_bits(w, (layer.weights // layer.depth, layer.depth)) if layer.weights else 0


def traffic_bits(layer: LayerSpec, w: Width, a: Width, o: Width) -> int:
    """Bits of what is no weight: operands that are activations, and the output. Their scales count nothing."""
    return layer.in_elems * bits_of(a) + layer.second_elems * bits_of(w) + layer.out_elems * bits_of(o)
