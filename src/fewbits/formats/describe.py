"""Facts about a format, for people and for tables: what it is, what it costs, what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import prod

from fewbits.formats.floating import FLOATS, FP32, FloatFormat, Specials
from fewbits.formats.granularity import Group, Tile
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat
from fewbits.formats.provenance import in_words, source_of
from fewbits.formats.scaled import Element, Format, NestedScale, PowerOfTwoScale, ScaledFormat, element_of
from fewbits.formats.text import format_text


class Kind(StrEnum):
    """What sort of format it is."""

    FLOAT = "float"
    INTEGER = "integer"
    LEVELS = "levels"
    """A short list of values: binary, ternary, codebooks."""
    SCALED = "scaled"
    """An element with a scale for each tensor, channel, group or tile."""


@dataclass(frozen=True, slots=True)
class Description:
    """What there is to say about one format. The limits of a scaled format are its element's, in units of the scale.

    `bits` are those of one code. `bits_per_element` adds the share of scales, zero points and fitted tables,
    for whole tiles; scales of a tensor, channel or token count nothing, since their number depends on the shape.
    `tile` is the number of elements that share a scale, 0 where the shape decides. `low`, `max` and `min_positive` are
    values, `min_normal` and `epsilon` belong to floats (``0`` otherwise): the smallest number of full precision, and
    the distance from 1 to the next number. `values` counts the finite values, -0 and 0 as one. A k-means codebook is
    fitted to the data: its `low`, `max` and `min_positive` are 0.
    """

    name: str
    kind: Kind
    what: str
    bits: int
    bits_per_element: float
    tile: int
    signed: bool
    low: float
    max: float
    min_normal: float
    min_positive: float
    epsilon: float
    infinity: bool
    nan: bool
    negative_zero: bool
    values: int
    source: str


def describe(format: Format) -> Description:
    """The facts about `format`."""
    element = element_of(format)
    scaled = isinstance(format, ScaledFormat)
    low, high, least = _limits(element)
    floating = element if isinstance(element, FloatFormat) else None
    return Description(
        name=format_text(format),
        kind=Kind.SCALED if scaled else _kind(element),
        what=in_words(format),
        bits=format.bits,
        bits_per_element=bits_per_element(format),
        tile=tile_size(format),
        signed=low < 0 or isinstance(element, KMeansFormat),
        low=low,
        max=high,
        min_normal=floating.min_normal if floating else 0.0,
        min_positive=least,
        epsilon=floating.epsilon if floating else 0.0,
        infinity=floating is not None and floating.has_infinity,
        nan=floating is not None and floating.has_nan,
        negative_zero=floating is not None and floating.grid.negative_zero,
        values=_values(element),
        source=source_of(format),
    )


def tile_size(format: Format) -> int:
    """How many elements share a scale; 0 where the shape of the array decides, or without scales."""
    if not isinstance(format, ScaledFormat):
        return 0
    match format.granularity:
        case Group(size=size):
            return size
        case Tile(sizes=sizes):
            return prod(sizes)
        case _:
            return 0


def scale_bits(format: ScaledFormat) -> int:
    """Bits of one scale as it is stored, without zero point and tensor scale."""
    if isinstance(format.scale, NestedScale):
        return format.scale.block.bits
    return format.scale.storage.bits if isinstance(format.scale, PowerOfTwoScale) else FP32.bits


def bits_per_element(format: Format) -> float:
    """Bits of a code and its share of what a whole tile has once; see `Description`."""
    size = tile_size(format)
    if not isinstance(format, ScaledFormat) or not size:
        return float(format.bits)
    zero_point = format.bits if format.asymmetric else 0
    table = FP32.bits << format.bits if isinstance(format.element, KMeansFormat) else 0
    return format.bits + (scale_bits(format) + zero_point + table) / size


def relatives(format: Format) -> tuple[str, ...]:
    """Named floats that share exponent and mantissa bits with `format` but not its values: easily mistaken for it."""
    element = element_of(format)
    if not isinstance(element, FloatFormat):
        return ()
    widths = (element.exponent_bits, element.mantissa_bits)
    return tuple(
        name
        for name, other in FLOATS.items()
        if (other.exponent_bits, other.mantissa_bits) == widths and other != element
    )


def _kind(element: Element) -> Kind:
    if isinstance(element, FloatFormat):
        return Kind.FLOAT
    return Kind.INTEGER if isinstance(element, IntFormat) else Kind.LEVELS


def _limits(element: Element) -> tuple[float, float, float]:
    """Lowest value, highest value, smallest positive value."""
    match element:
        case FloatFormat():
            return element.grid.low, element.max, element.min_positive
        case IntFormat():
            return element.grid.low, element.max, element.grid.smallest_step
        case CodebookFormat(values=values):
            return values[0], values[-1], min((value for value in values if value > 0), default=0.0)
        case KMeansFormat():
            return 0.0, 0.0, 0.0
        case _:
            return -1.0, 1.0, 1.0


def _values(element: Element) -> int:
    match element:
        case FloatFormat():
            return _finite_values(element)
        case IntFormat():
            return element.levels
        case CodebookFormat(values=values):
            return len(values)
        case KMeansFormat(bits=bits):
            return 1 << bits
        case BinaryFormat():
            return 2
        case TernaryFormat():
            return 3


def _finite_values(element: FloatFormat) -> int:
    magnitudes = 1 << (element.exponent_bits + element.mantissa_bits)
    special = {Specials.IEEE: 1 << element.mantissa_bits, Specials.NAN_ONLY: 1}.get(element.specials, 0)
    zero = int(element.zero)
    flushed = (1 << element.mantissa_bits) - 1 if zero and not element.subnormals else 0
    return (magnitudes - special - zero - flushed) * (1 + int(element.signed)) + zero
