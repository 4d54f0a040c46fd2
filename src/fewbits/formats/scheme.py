"""How a group computes: the formats of its two operands, as one value.

The text form round-trips:

=====================================  ==========================================================================
``fp32``                               as the model is
``bf16``, ``fp16``                     both operands cast to that format, results cast back
``tf32``                               products of fp32 as tensor cores compute them
``w:int8r/channel a:uint8/tensor``     codes with ranges found by calibration (static)
``w:int8r/channel a:uint8/token dynamic``  codes of the activation with a range found at every call
``w:int8r/channel a:uint8/tensor smoothed``  static, large channels of the activation moved into the weight before
``w:int8r/channel a:uint8/token dynamic smoothed``  the same beside ranges found at every call
``w:int4r/g32@0``                      the weight alone is stored in codes, products are computed in fp32
``w:int4r/g32@0 smoothed``             the same, large channels of the activation moved into the weight before
=====================================  ==========================================================================

``w`` is the second operand of the product (the weight; in attention, the second activation), ``a`` the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fewbits.errors import FormatError, SchemeError
from fewbits.formats.floating import BF16 as BF16_ELEMENT
from fewbits.formats.floating import FP16 as FP16_ELEMENT
from fewbits.formats.floating import TF32 as TF32_ELEMENT
from fewbits.formats.floating import FloatFormat
from fewbits.formats.granularity import Channel, Group, Tensor, Token
from fewbits.formats.integer import INT8R, UINT8, IntFormat
from fewbits.formats.scaled import Format, ScaledFormat
from fewbits.formats.text import format_text, parse

_DYNAMIC = "dynamic"
_SMOOTHED = "smoothed"


@dataclass(frozen=True, slots=True)
class Scheme:
    """Formats of both operands of a group; both ``None`` means that it stays in fp32.

    Without a scale (bf16, fp16) an operand is cast; an `activation` of ``None`` beside a `weight` leaves the
    activation in fp32. `dynamic` activations find their range at every call; `smoothed` ones are divided by a factor
    for each channel that the weight is multiplied by (SmoothQuant, Xiao et al. 2023, section 4; with the weight alone
    in codes AWQ, Lin et al. 2023, section 3.2).
    Raises SchemeError for combinations that mean nothing.
    """

    weight: Format | None = None
    activation: Format | None = None
    dynamic: bool = False
    smoothed: bool = False

    def __post_init__(self) -> None:
        if self.weight is None and self.activation is not None:
            raise SchemeError("a scheme that names an activation (a:) names the second operand (w:) too")
        if self.dynamic and not isinstance(self.activation, ScaledFormat):
            raise SchemeError("only an activation in codes can find its range at every call (dynamic)")
        if self.smoothed and not isinstance(self.weight, ScaledFormat):
            raise SchemeError("only an activation beside a weight in codes is smoothed")
        if isinstance(self.weight, FloatFormat) != isinstance(self.activation, FloatFormat):
            raise SchemeError("a cast has the same format for both operands, for example bf16")
        if isinstance(self.weight, FloatFormat) and self.weight != self.activation:
            raise SchemeError("a cast has the same format for both operands, for example bf16")

    @property
    def is_fp32(self) -> bool:
        """Whether the group stays as it is."""
        return self.weight is None

    @property
    def is_cast(self) -> bool:
        """Whether both operands are cast to a smaller float."""
        return isinstance(self.weight, FloatFormat)

    @property
    def is_static(self) -> bool:
        """Whether both operands are codes whose ranges come from calibration."""
        return isinstance(self.activation, ScaledFormat) and not self.dynamic

    @property
    def is_weight_only(self) -> bool:
        """Whether only the weight is stored in codes."""
        return self.weight is not None and self.activation is None

    @property
    def sort(self) -> str:
        """What sort of arithmetic it is, in a word: a column's heading, and what costs are corrected by."""
        if self.is_weight_only or self.weight is None or self.is_cast:
            return "stored" if self.is_weight_only else str(self)
        return _DYNAMIC if self.dynamic else "codes"

    def __str__(self) -> str:
        if self.weight is None:
            return "fp32"
        if self.activation is None:
            return " ".join([f"w:{format_text(self.weight)}", *[_SMOOTHED] * self.smoothed])
        if self.is_cast:
            return format_text(self.weight)
        text = f"w:{format_text(self.weight)} a:{format_text(self.activation)}"
        return " ".join([text, *[_DYNAMIC] * self.dynamic, *[_SMOOTHED] * self.smoothed])

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Read `text`, the inverse of ``str``; ``int8`` stands for the default int8 scheme. Raises SchemeError."""
        words = text.split()
        if text in _SHORT:
            return _SHORT[text]
        smoothed = words[-1:] == [_SMOOTHED]
        dynamic = words[: len(words) - smoothed][-1:] == [_DYNAMIC]
        parts = dict(word.split(":", 1) for word in words if ":" in word)
        if len(parts) != len(words) - dynamic - smoothed or not {"w"} <= set(parts) <= {"w", "a"}:
            raise SchemeError(f"{text!r} is not a scheme; choose fp32, bf16, fp16, int8 or for example '{INT8_STATIC}'")
        activation = _operand(parts["a"], text) if "a" in parts else None
        return cls(_operand(parts["w"], text), activation, dynamic, smoothed)


def _operand(text: str, scheme: str) -> ScaledFormat:
    try:
        format = parse(text)
    except FormatError as error:
        raise SchemeError(f"in the scheme {scheme!r}: {error}") from error
    if not isinstance(format, ScaledFormat):
        raise SchemeError(f"in the scheme {scheme!r}: {text} says nothing about scales; for example {text}/tensor")
    return format


def integer(operand: Format | None) -> IntFormat:
    """The integers of an operand. Raises SchemeError if its elements are no integers."""
    if not isinstance(operand, ScaledFormat) or not isinstance(operand.element, IntFormat):
        named = "fp32" if operand is None else format_text(operand)
        raise SchemeError(f"{named} holds no integers with scales; this place takes for example int8r/channel")
    return operand.element


def integers(weight: int, activation: int, *, channels: bool = True) -> Scheme:
    """Static codes of `weight` and `activation` bits, 2 to 16 each: ``w:int4r/channel a:uint8/tensor``, without
    `channels` (the second operand is an activation) ``w:int4r/tensor a:uint8/tensor``. Raises FormatError."""
    second = ScaledFormat(IntFormat(weight, signed=True, restricted=True), Channel() if channels else Tensor())
    return Scheme(second, ScaledFormat(IntFormat(activation, signed=False), Tensor()))


INT8_CHANNEL = ScaledFormat(INT8R, Channel())
INT8_TENSOR = ScaledFormat(INT8R, Tensor())
UINT8_TENSOR = ScaledFormat(UINT8, Tensor())

FP32 = Scheme()
BF16 = Scheme(BF16_ELEMENT, BF16_ELEMENT)
FP16 = Scheme(FP16_ELEMENT, FP16_ELEMENT)
TF32 = Scheme(TF32_ELEMENT, TF32_ELEMENT)
"""float32 that a tensor core rounds to 10 mantissa bits when it multiplies: nothing is stored smaller."""
INT8_STATIC = Scheme(INT8_CHANNEL, UINT8_TENSOR)
INT8_SYMMETRIC = Scheme(INT8_CHANNEL, INT8_TENSOR)
"""Without a zero point in the activation, which some kernels must correct for."""
INT8_PAIR = Scheme(INT8_TENSOR, UINT8_TENSOR)
"""For products of two activations, and joints: one scale for each operand."""
INT8_SYMMETRIC_PAIR = Scheme(INT8_TENSOR, INT8_TENSOR)
"""The same without zero points, which OpenVINO's attention wants."""
INT8_SMOOTHED = replace(INT8_STATIC, smoothed=True)
INT8_SYMMETRIC_SMOOTHED = replace(INT8_SYMMETRIC, smoothed=True)
INT8_DYNAMIC = Scheme(INT8_CHANNEL, UINT8_TENSOR, dynamic=True)
INT8_TOKENS = Scheme(INT8_CHANNEL, ScaledFormat(UINT8, Token()), dynamic=True)
"""The same with a range for each token, so that one with large values costs the others nothing."""
INT8_TOKENS_SMOOTHED = replace(INT8_TOKENS, smoothed=True)
INT8_DYNAMIC_PAIR = Scheme(INT8_TENSOR, UINT8_TENSOR, dynamic=True)
"""The same with one scale for a constant that is no matrix of columns."""
INT8_WEIGHT = Scheme(INT8_CHANNEL)
INT8_BLOCKS = Scheme(ScaledFormat(INT8R, Group(32, 0)))
INT4_BLOCKS = Scheme(ScaledFormat(IntFormat(4, signed=True, restricted=True), Group(32, 0)))
"""Weights of shape (depth, columns) alone, one scale for 32 neighbours along the depth."""
INT4_SHIFTED_BLOCKS = Scheme(ScaledFormat(IntFormat(4, signed=False), Group(32, 0)))
"""The same with a zero point for each scale: closer where weights are not centred, for an eighth of a bit more."""
INT4_LONG_BLOCKS = Scheme(ScaledFormat(IntFormat(4, signed=False), Group(128, 0)))
"""With zero points, one scale for 128: three quarters of a bit less."""
INT4_ROWS = Scheme(ScaledFormat(IntFormat(4, signed=False), Channel()))
"""A table alone, each of its rows with a scale and a zero point (row-wise, as in FBGEMM)."""
INT4_ROW_BLOCKS = Scheme(ScaledFormat(IntFormat(4, signed=False), Group(32)))
"""Tables and the matrices of recurrent layers alone, a scale and a zero point for 32 neighbours in a row."""
INT4_OTHER_BLOCKS = (
    Scheme(ScaledFormat(IntFormat(4, signed=True, restricted=True), Group(64, 0))),
    Scheme(ScaledFormat(IntFormat(4, signed=False), Group(64, 0))),
    Scheme(ScaledFormat(IntFormat(4, signed=True, restricted=True), Group(128, 0))),
)
"""Between these: one scale for 64 with and without zero points, one for 128 without."""
INT4_SMOOTHED = tuple(
    replace(scheme, smoothed=True)
    for scheme in (INT4_BLOCKS, INT4_SHIFTED_BLOCKS, INT4_LONG_BLOCKS, *INT4_OTHER_BLOCKS)
)
"""All of them with large channels of the activation moved into the weight (AWQ)."""

_SHORT = {"fp32": FP32, "bf16": BF16, "fp16": FP16, "tf32": TF32, "int8": INT8_STATIC}
