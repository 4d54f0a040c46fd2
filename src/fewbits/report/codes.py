"""The codes of an element and what they stand for: all of them, or the landmarks of a format with many."""

from __future__ import annotations

from collections.abc import Sequence
from math import copysign, inf, isnan, nan

from fewbits.formats.floating import FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat
from fewbits.formats.numerics.scalar import decode, encode
from fewbits.formats.scaled import Element
from fewbits.report.figures import exact, number, power_of_two
from fewbits.report.table import paragraph, table

_ALL = 8
"""Formats of so many bits have all of their codes shown."""
_COLUMNS = 8
_DIGITS = (8, 7, 6, 5, 4, 3, 2)
_ROOM = range(12, 5, -1)


def codes(element: Element, width: int) -> list[str]:
    """The codes of `element`, in lines of at most `width` characters where that can be done with a few digits."""
    match element:
        case FloatFormat():
            return _matrix(element, width) if element.bits <= _ALL else _landmarks(element)
        case IntFormat():
            return _integers(element)
        case CodebookFormat(values=values):
            return _listed(values)
        case BinaryFormat():
            return _listed((-1.0, 1.0))
        case TernaryFormat():
            return _listed((-1.0, 0.0, 1.0))
        case KMeansFormat():
            return paragraph(
                f"Codes: 0 to {(1 << element.bits) - 1}, places in the table of values, which rises.", width=width
            )


def hexadecimal(code: int, bits: int) -> str:
    """`code` with as many digits as `bits` need."""
    return f"0x{code:0{-(-bits // 4)}x}"


def _matrix(element: FloatFormat, width: int) -> list[str]:
    half = 1 << (element.bits - int(element.signed))
    values = [decode(code, element) for code in range(1 << element.bits)]
    columns = min(half, 1 << element.mantissa_bits if element.mantissa_bits in (1, 2) else _COLUMNS)
    starts = range(0, half, columns)
    left = [("code", "binade" if element.mantissa_bits else "")]
    left += [(hexadecimal(start, element.bits), _binade(start, element)) for start in starts]
    heads = [f"+{column}" for column in range(columns)]
    for room in _ROOM:
        cells = [heads, *([_cell(value, room, element) for value in values[start:][:columns]] for start in starts)]
        lines = _aligned(left, cells)
        if max(map(len, lines)) <= width:
            break
    title = "Codes, values rounded to fit" if _is_rounded(cells[1:], values) else "Codes"
    return [title, *lines, *(paragraph(_negative_half(values, element), width=width) if element.signed else [])]


def _binade(start: int, element: FloatFormat) -> str:
    """The power of two from which the values of a row go up; a row of a format without mantissa holds several."""
    if element.mantissa_bits == 0:
        return ""
    field = start >> element.mantissa_bits
    return f"2^{field - element.bias}" if field or not element.zero else "subn."


def _cell(value: float, room: int, element: FloatFormat) -> str:
    """`value` with as many digits as `room` characters hold."""
    if element.mantissa_bits == 0 and (power := power_of_two(value)):
        return power
    shown = (number(value, digits) for digits in _DIGITS)
    return next((text for text in shown if len(text) <= room), number(value, _DIGITS[-1]))


def _is_rounded(cells: Sequence[Sequence[str]], values: Sequence[float]) -> bool:
    shown = (text for row in cells for text in row)
    pairs = ((text, value) for text, value in zip(shown, values, strict=False) if "^" not in text and text != "NaN")
    return any(float(text) != value for text, value in pairs)


def _aligned(left: Sequence[tuple[str, str]], cells: Sequence[Sequence[str]]) -> list[str]:
    """A matrix whose first columns are `left` and whose `cells` are set flush right."""
    wide = [max(len(row[place]) for row in left) for place in (0, 1)]
    heads = [f"{one:<{wide[0]}}  {two:>{wide[1]}}".rstrip() for one, two in left]
    edge = max(map(len, heads))
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        f"{head:<{edge}}  {' '.join(cell.rjust(size) for cell, size in zip(row, widths, strict=True))}"
        for head, row in zip(heads, cells, strict=True)
    ]


def _negative_half(values: Sequence[float], element: FloatFormat) -> str:
    """What the codes with the sign bit stand for, by way of the others."""
    half = len(values) // 2
    others = [
        f"{hexadecimal(half + code, element.bits)} is {number(values[half + code], 6)}"
        for code in range(half)
        if not _mirrored(values[code], values[half + code])
    ]
    bit = hexadecimal(half, element.bits)
    return f"With {bit} added, the sign bit: the same with minus{', but ' if others else ''}{', '.join(others)}."


def _mirrored(value: float, other: float) -> bool:
    if isnan(value) or isnan(other):
        return isnan(value) and isnan(other)
    return other == -value and copysign(1, other) != copysign(1, value)


def _landmarks(element: FloatFormat) -> list[str]:
    step = element.min_normal * element.epsilon
    wanted = [("zero", 0.0, "0")] if element.zero else []
    if element.min_positive < element.min_normal:
        below = f"{power_of_two(element.min_normal)} - {power_of_two(step)}"
        wanted += [("smallest subnormal", step, exact(step)), ("largest subnormal", element.min_normal - step, below)]
    wanted += [("smallest normal", element.min_normal, exact(element.min_normal))]
    if element.min_normal <= 1 and 1 + element.epsilon <= element.max:
        after = 1 + element.epsilon
        wanted += [("one", 1.0, "1"), ("next after one", after, f"1 + {power_of_two(element.epsilon)}")]
    wanted += [("largest", element.max, exact(element.max))]
    wanted += [("Inf", inf, "")] * element.has_infinity + [("NaN", nan, "")] * element.has_nan
    wanted += [("-0", -0.0, "")] * element.grid.negative_zero
    rows = [(name, hexadecimal(encode(value, element), element.bits), text) for name, value, text in wanted]
    return ["Landmarks", *table(("", "code", "value"), rows)]


def _integers(element: IntFormat) -> list[str]:
    step = f", each {exact(2.0**-element.fraction)}" if element.fraction else ""
    return [f"Codes: {element.qmin} to {element.qmax}{step}."]


def _listed(values: Sequence[float]) -> list[str]:
    rows = [(str(code), f"{value:.9g}") for code, value in enumerate(values)]
    shown = rows if len(rows) <= 32 else [*rows[:16], ("...", "..."), *rows[-16:]]
    return table(("code", "value"), shown, right=(0,))
