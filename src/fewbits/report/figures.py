"""Limits of formats as short text: powers of two as such, the rest with few digits."""

from __future__ import annotations

from math import frexp, isinf, isnan


def power_of_two(value: float) -> str:
    """``2^k`` if `value` is a power of two, otherwise nothing."""
    mantissa, exponent = frexp(value)
    return f"2^{exponent - 1}" if mantissa == 0.5 else ""


def limit(value: float) -> str:
    """A limit for a column: ``448``, ``0.125``, ``2^-24``, ``3.40e38``."""
    if 0 < value < 0.1 and (power := power_of_two(value)):
        return power
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.0f}" if value == int(value) else f"{value:.4g}"
    return scientific(value, 2)


def exact(value: float) -> str:
    """A limit with all that there is to say: ``2^-9 = 0.001953125``, ``448``, ``2^-149 = 1.4013e-45``."""
    shown = number(value, 12) if value == 0 or 1e-6 <= abs(value) < 1e9 else scientific(value, 4)
    power = power_of_two(value)
    return f"{power} = {shown}" if power and not 0.5 <= value <= 4096 else shown


def number(value: float, digits: int) -> str:
    """A value with at most `digits` significant digits; ``NaN``, ``Inf``, ``-0``."""
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return f"{value:.{digits}g}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-")


def scientific(value: float, digits: int) -> str:
    """``3.40e38``: `digits` behind the point, and no zeros or plus in the exponent."""
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
