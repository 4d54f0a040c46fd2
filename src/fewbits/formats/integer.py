"""Integer formats: a frozen value of three fields; every limit is derived."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fewbits.errors import SchemeError

_TEXT = re.compile(r"(u?)int([1-9][0-9]?)(r?)\Z")


@dataclass(frozen=True, slots=True)
class IntFormat:
    """An integer format of `bits` bits.

    `restricted` drops the lowest code of a signed format, so that the range is symmetric
    (``[-127, 127]`` for ``int8r``; oneDNN, TensorRT). The text form round-trips: ``uint8``,
    ``int8``, ``int8r``.
    """

    bits: int
    signed: bool
    restricted: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise SchemeError(f"an integer format has 2 to 16 bits, not {self.bits}")
        if self.restricted and not self.signed:
            raise SchemeError("only a signed integer format can be restricted to a symmetric range")

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

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}int{self.bits}{'r' if self.restricted else ''}"

    @classmethod
    def parse(cls, text: str) -> IntFormat:
        """Read `text`, the inverse of ``str``. Raises SchemeError."""
        match = _TEXT.match(text)
        if match is None or (match[1] and match[3]):
            raise SchemeError(f"{text!r} is not an integer format; for example int8, uint8, int8r")
        return cls(int(match[2]), signed=not match[1], restricted=bool(match[3]))


INT8 = IntFormat(8, signed=True)
INT8R = IntFormat(8, signed=True, restricted=True)
UINT8 = IntFormat(8, signed=False)
