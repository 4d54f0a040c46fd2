"""How a group computes: the formats of its two operands, as one value.

The text form round-trips: ``fp32``, or ``w:int8r/channel a:uint8/tensor``. ``w`` is the second
operand of the product (the weight; in attention, the second activation), ``a`` the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.errors import FormatError, SchemeError
from fewbits.formats.granularity import Channel, Tensor
from fewbits.formats.integer import INT8R, UINT8, IntFormat
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.text import format_text, parse


@dataclass(frozen=True, slots=True)
class Scheme:
    """Formats of both operands of a group; both ``None`` means that it stays in fp32."""

    weight: ScaledFormat | None = None
    activation: ScaledFormat | None = None

    def __post_init__(self) -> None:
        if (self.weight is None) != (self.activation is None):
            raise SchemeError("a scheme names both operands (w: and a:) or neither (fp32)")

    @property
    def is_float(self) -> bool:
        """Whether the group stays as it is."""
        return self.weight is None

    def __str__(self) -> str:
        if self.weight is None or self.activation is None:
            return "fp32"
        return f"w:{format_text(self.weight)} a:{format_text(self.activation)}"

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
        return cls(_operand(parts["w"], text), _operand(parts["a"], text))


def _operand(text: str, scheme: str) -> ScaledFormat:
    try:
        format = parse(text)
    except FormatError as error:
        raise SchemeError(f"in the scheme {scheme!r}: {error}") from error
    if not isinstance(format, ScaledFormat):
        raise SchemeError(f"in the scheme {scheme!r}: {text} says nothing about scales; for example {text}/tensor")
    return format


def integer(operand: ScaledFormat) -> IntFormat:
    """The integers of an operand. Raises SchemeError if its elements are no integers."""
    if not isinstance(operand.element, IntFormat):
        raise SchemeError(f"{format_text(operand)} holds no integers; this place takes for example int8r/channel")
    return operand.element


INT8_CHANNEL = ScaledFormat(INT8R, Channel())
INT8_TENSOR = ScaledFormat(INT8R, Tensor())
UINT8_TENSOR = ScaledFormat(UINT8, Tensor())

FP32 = Scheme()
INT8_STATIC = Scheme(INT8_CHANNEL, UINT8_TENSOR)
