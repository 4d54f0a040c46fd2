"""Figures and names as short text, in ASCII."""

from __future__ import annotations

from fewbits.measurement import Interval


def readable_bytes(size: int) -> str:
    """`size` bytes in decimal units: ``812 B``, ``3.41 kB``, ``98.1 MB``."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB"):
        value /= 1000
        if value < 999.5:
            return f"{significant(value)} {unit}"
    return f"{significant(value / 1000)} GB"


def readable_time(seconds: float) -> str:
    """``0.4 s``, ``41 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def milliseconds(seconds: float) -> str:
    """`seconds` in milliseconds with three digits, without the unit."""
    return significant(seconds * 1e3)


def microseconds(seconds: float) -> str:
    """`seconds` in microseconds; ``-`` for a negative value, which means that it was not measured."""
    return "-" if seconds < 0 else significant(seconds * 1e6)


def significant(value: float, digits: int = 3) -> str:
    """`value` with at least `digits` significant digits and never an exponent between 1e-4 and 1e15."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    text = f"{value:#.{digits}g}"
    return text.rstrip(".").replace(".e", "e")


def bounds(interval: Interval, digits: int = 3) -> str:
    """``[low, high]`` of `interval`."""
    return f"[{significant(interval.low, digits)}, {significant(interval.high, digits)}]"


def shortened(name: str, width: int) -> str:
    """`name` with its middle replaced by ``...`` if it is longer than `width`: both ends tell names apart."""
    if len(name) <= width:
        return name
    head = (width - 3) // 2
    return f"{name[:head]}...{name[len(name) - (width - 3 - head) :]}"
