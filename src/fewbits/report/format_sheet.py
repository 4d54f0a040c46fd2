"""One format on one sheet: its fields, limits, scales, codes, and what this machine does with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fewbits.formats.describe import bits_per_element, describe, relatives, scale_bits, tile_size
from fewbits.formats.floating import FP32, FloatFormat
from fewbits.formats.granularity import Granularity, Group, Shape, Tile, tiles
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import KMeansFormat
from fewbits.formats.scaled import Format, NestedScale, PowerOfTwoScale, ScaledFormat, ScaleRule, element_of
from fewbits.native import Support
from fewbits.report.codes import codes
from fewbits.report.figures import exact
from fewbits.report.formats import instructions, note, specials
from fewbits.report.table import paragraph

_INDENT = 18

_RULES = {
    ScaleRule.FLOOR: "2^(floor(log2 amax) - emax): what lies above the largest value is clipped",
    ScaleRule.CEIL: "2^(ceil(log2 amax) - emax): nothing is clipped",
    ScaleRule.RCEIL: "the least power of two with which nothing is clipped",
    ScaleRule.EVEN: "as floor, after rounding amax to the element's mantissa bits",
}


def sheet(format: Format, native: Sequence[Support], width: int) -> str:
    """`format` as text of at most `width` columns; `native` as `fewbits.native.native` says for this machine."""
    description = describe(format)
    facts = [*_fields(format), *_scales(format), *_limits(format), *_native(native), ("source", description.source)]
    lines = paragraph(f"{description.name}: {description.what}", hang="  ", width=width)
    for name, fact in facts:
        lines += paragraph(f"  {name:<{_INDENT - 2}}{fact}", hang=" " * _INDENT, width=width)
    element = element_of(format)
    of = f" of {element}" if isinstance(format, ScaledFormat) else ""
    title, *rest = codes(element, width)
    return "\n".join(line.rstrip() for line in [*lines, "", title.replace("Codes", f"Codes{of}", 1), *rest]) + "\n"


def _fields(format: Format) -> Iterator[tuple[str, str]]:
    element = element_of(format)
    if isinstance(element, FloatFormat):
        sign = "1 sign, " if element.signed else "no sign, "
        widths = f"{element.exponent_bits} exponent, {element.mantissa_bits} mantissa bits"
        yield "fields", f"{sign}{widths}; bias {element.bias}"
        if element.fields != str(format):
            yield "as fields", element.fields
        yield "specials", specials(describe(element)) or "none: every code is an ordinary number"
    if not isinstance(format, ScaledFormat):
        yield "bits", str(format.bits)
    elif size := tile_size(format):
        parts = [f"{scale_bits(format)} of the scale"]
        parts += [f"{format.bits} of the zero point"] * bool(format.asymmetric)
        parts += [f"{FP32.bits << format.bits} of the table"] * isinstance(format.element, KMeansFormat)
        yield "bits", f"{format.bits} + ({' + '.join(parts)}) / {size} = {bits_per_element(format):.6g} per element"
    else:
        yield "bits", f"{format.bits}, and {scale_bits(format)} for each scale"


def _scales(format: Format) -> Iterator[tuple[str, str]]:
    if not isinstance(format, ScaledFormat):
        return
    match format.scale:
        case PowerOfTwoScale(rule=rule, storage=storage):
            yield "scale", f"power of two in {storage}, rule {rule}: {_RULES[rule]}"
        case NestedScale(block=block):
            yield "scale", f"in {block}, times one fp32 scale for the whole tensor"
        case _:
            yield "scale", "any fp32 number"
    if isinstance(format.element, IntFormat):
        yield "zero point", "an integer code" if format.asymmetric else "none, symmetric around 0"
    if tile_size(format):
        shape = _example(format.granularity)
        count = tiles(shape, format.granularity.tile(shape))
        yield "for example", f"an array of {' x '.join(map(str, shape))} has {' x '.join(map(str, count))} scales"


def _example(granularity: Granularity) -> Shape:
    """A shape that has the axes of `granularity`, two at least."""
    match granularity:
        case Group(axis=axis):
            axes = axis + 1 if axis >= 0 else -axis
        case Tile(sizes=sizes):
            axes = len(sizes)
        case _:
            axes = 0
    return (16,) * (axes - 2) + (4096, 4096)


def _limits(format: Format) -> Iterator[tuple[str, str]]:
    element, facts = element_of(format), describe(format)
    unit = " x scale" if isinstance(format, ScaledFormat) else ""
    if isinstance(element, KMeansFormat):
        yield "values", f"{facts.values}, fitted to what shares a scale"
        return
    yield "largest", f"{exact(facts.max)}{unit}"
    if -facts.low != facts.max:
        yield "lowest", f"{exact(facts.low)}{unit}"
    if isinstance(element, FloatFormat) and facts.min_normal != facts.min_positive:
        yield "smallest normal", f"{exact(facts.min_normal)}{unit}"
    yield "smallest", f"{exact(facts.min_positive)}{unit}"
    if facts.epsilon:
        yield "epsilon", f"{exact(facts.epsilon)}, from 1 to the next value"
    yield "finite values", str(facts.values)
    if near := relatives(format):
        yield "unlike", f"{', '.join(near)}: the same widths, other values"


def _native(native: Sequence[Support]) -> Iterator[tuple[str, str]]:
    if not native:
        yield "this machine", "has no instructions for it: decoded to fp32 by software"
    uses = {support.device: support.use for support in native}
    for device, names in instructions(native).items():
        remark = note(uses[device])
        yield f"on {device}", f"{names}{f' ({remark})' if remark else ''}"
