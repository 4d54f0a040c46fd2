"""Integer formats: a frozen value of four fields; every limit is derived."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import floor, log2

from fewbits.errors import FormatError
from fewbits.formats.grid import Grid

_TEXT = re.compile(r"(u?)int([1-9][0-9]?)(r?)(?:f([0-9]{1,2}))?\Z")


@dataclass(frozen=True, slots=True)
class IntFormat:
    """An integer format of `bits` bits; code ``q`` stands for ``q * 2**-fraction``.

    `restricted` drops the lowest code of a signed format, so that the range is symmetric
    (``[-127, 127]`` for ``int8r``; oneDNN, TensorRT). `fraction` is the number of bits behind the binary
    point: ``int8f6`` is the INT8 element of OCP MX v1.0, and fixed point in general. The text form
    round-trips: ``uint8``, ``int8``, ``int8r``, ``int8rf6``.
    """

    bits: int
    signed: bool
    restricted: bool = False
    fraction: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise FormatError(f"an integer format has 2 to 16 bits, not {self.bits}; one bit is the format binary")
        if self.restricted and not self.signed:
            raise FormatError("only a signed integer format can be restricted to a symmetric range")
        if not 0 <= self.fraction <= 64:
            raise FormatError(f"an integer format has 0 to 64 bits behind the binary point, not {self.fraction}")

    @property
    def qmin(self) -> int:
        """Lowest code."""
        return -(1 << (self.bits - 1)) + int(self.restricted) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Highest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def levels(self) -> int:
        """Number of codes."""
        return self.qmax - self.qmin + 1

    @property
    def max(self) -> float:
        """Largest value."""
        return self.qmax * 2.0**-self.fraction

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest power of two that is a value (``emax_elem`` of OCP MX)."""
        return floor(log2(self.qmax)) - self.fraction

    @property
    def grid(self) -> Grid:
        """The values: every multiple of ``2**-fraction`` between the limits."""
        magnitude_bits = self.bits - int(self.signed)
        low = self.qmin * 2.0**-self.fraction
        return Grid(magnitude_bits, magnitude_bits - self.fraction, low, self.max)

    def __str__(self) -> str:
        fraction = f"f{self.fraction}" if self.fraction else ""
        return f"{'' if self.signed else 'u'}int{self.bits}{'r' if self.restricted else ''}{fraction}"

    @classmethod
    def parse(cls, text: str) -> IntFormat:
        """Read `text`, the inverse of ``str``. Raises FormatError."""
        match = _TEXT.match(text)
        if match is None or (match[1] and match[3]):
            raise FormatError(f"{text!r} is not an integer format; for example int8, uint8, int8r")
        return cls(int(match[2]), signed=not match[1], restricted=bool(match[3]), fraction=int(match[4] or 0))


INT8 = IntFormat(8, signed=True)
INT8R = IntFormat(8, signed=True, restricted=True)
UINT8 = IntFormat(8, signed=False)
