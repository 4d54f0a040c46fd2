"""Which arguments of a cast go together; the same for every implementation."""

from __future__ import annotations

from fewbits.errors import FormatError
from fewbits.formats.floating import FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.rounding import Overflow, Rounding
from fewbits.formats.scaled import Format, element_of
from fewbits.formats.text import format_text


def check_cast(format: Format, rounding: Rounding, overflow: Overflow, *, keyed: bool, with_scales: bool) -> None:
    """Raise FormatError, saying what to write instead, if an array cannot be cast in this way whatever it holds.

    `keyed`: there are random numbers. `with_scales`: the scales are given beside a format that may say nothing about
    them.
    """
    element, name = element_of(format), format_text(format)
    if not with_scales and isinstance(format, IntFormat) and not format.fraction:
        raise FormatError(
            f"{name} needs a scale: write {name}/tensor or {name}/channel, pass scale=, or say how many bits are "
            f"behind the binary point ({name}f4)"
        )
    if not isinstance(element, IntFormat | FloatFormat) and rounding is not Rounding.NEAREST_EVEN:
        raise FormatError(f"{name} takes the nearest of its levels; there is no {rounding} rounding")
    has_specials = isinstance(element, FloatFormat) and (element.has_infinity or element.has_nan)
    if overflow is Overflow.NONSATURATE and not has_specials:
        raise FormatError(f"{name} has neither Inf nor NaN: overflow must saturate")
    if rounding is Rounding.STOCHASTIC and not keyed:
        raise FormatError("stochastic rounding needs key=NoiseKey(seed, step, tensor)")
