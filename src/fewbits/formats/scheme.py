"""How a group computes: the formats and granularities of its two operands, as one value.

The text form round-trips: ``fp32``, or ``w:int8r/channel a:uint8/tensor``. ``w`` is the second
operand of the product (the weight; in attention, the second activation), ``a`` the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fewbits.errors import SchemeError
from fewbits.formats.integer import INT8R, UINT8, IntFormat


class Granularity(StrEnum):
    """What shares one scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"


@dataclass(frozen=True, slots=True)
class Operand:
    """Format and granularity of one operand, ``int8r/channel``."""

    format: IntFormat
    granularity: Granularity

    def __str__(self) -> str:
        return f"{self.format}/{self.granularity}"

    @classmethod
    def parse(cls, text: str) -> Operand:
        """Read `text`, the inverse of ``str``. Raises SchemeError."""
        format_text, _, granularity_text = text.partition("/")
        choices = [str(granularity) for granularity in Granularity]
        if granularity_text not in choices:
            raise SchemeError(f"{text!r}: the granularity is one of {', '.join(choices)}; for example int8r/channel")
        return cls(IntFormat.parse(format_text), Granularity(granularity_text))


@dataclass(frozen=True, slots=True)
class Scheme:
    """Formats of both operands of a group; both ``None`` means that it stays in fp32."""

    weight: Operand | None = None
    activation: Operand | None = None

    def __post_init__(self) -> None:
        if (self.weight is None) != (self.activation is None):
            raise SchemeError("a scheme names both operands (w: and a:) or neither (fp32)")

    @property
    def is_float(self) -> bool:
        """Whether the group stays as it is."""
        return self.weight is None

    def __str__(self) -> str:
        return "fp32" if self.is_float else f"w:{self.weight} a:{self.activation}"

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Read `text`, the inverse of ``str``; ``int8`` stands for the default int8 scheme. Raises SchemeError."""
        if text == "fp32":
            return FP32
        if text == "int8":
            return INT8_STATIC
        parts = dict(part.split(":", 1) for part in text.split() if ":" in part)
        if set(parts) != {"w", "a"} or len(text.split()) != 2:
            raise SchemeError(f"{text!r} is not a scheme; choose fp32, int8 or for example '{INT8_STATIC}'")
        return cls(Operand.parse(parts["w"]), Operand.parse(parts["a"]))


FP32 = Scheme()
INT8_STATIC = Scheme(Operand(INT8R, Granularity.CHANNEL), Operand(UINT8, Granularity.TENSOR))
