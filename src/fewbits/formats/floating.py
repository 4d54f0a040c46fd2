"""Floating-point formats: a frozen value of eight fields; every limit is derived.

Sources: IEEE 754-2019; Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433 (E5M2, E4M3);
OCP Microscaling Formats v1.0 (E3M2, E2M3, E2M1, E8M0); Noune et al., arXiv 2206.02915 (the ``fnuz`` pair).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from fewbits.errors import FormatError
from fewbits.formats.grid import Grid

_TEXT = re.compile(r"(u?)e([0-9]{1,2})m([0-9]{1,2})(?:b(-?[0-9]{1,3}))?(fnuz|fn|f)?(nz)?(ftz)?\Z")

_FLOAT32_LEAST_EXPONENT, _FLOAT32_MAX_EXPONENT = -149, 127


class Specials(StrEnum):
    """Which codes are not finite numbers; the text is the suffix in a format's name."""

    IEEE = ""
    """The highest exponent field: Inf with mantissa 0, NaN with any other."""
    NAN_ONLY = "fn"
    """All ones is NaN, there is no Inf (E4M3 of OCP, E8M0)."""
    NAN_FOR_NEGATIVE_ZERO = "fnuz"
    """The code of -0 is NaN, there is neither Inf nor -0 (AMD, Graphcore)."""
    NONE = "f"
    """Every code is a finite number (fp6, fp4)."""


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A floating-point format ``eXmY``.

    The value of sign s, exponent field E, mantissa field M is ``(-1)**s * 2**(E - bias) * (1 + M / 2**Y)``,
    and ``(-1)**s * 2**(1 - bias) * M / 2**Y`` for E = 0 if there is a `zero`. `subnormals` False flushes
    results that are subnormal to zero. Every value must be a float32 value. The text form round-trips:
    the catalogue's short name where there is one (``bf16``, ``fp8_e4m3``), otherwise its fields,
    ``e4m3b11fnuz``: bias if it is not the IEEE one, specials, ``nz`` without zero, ``ftz`` flushing,
    ``u`` in front for unsigned.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int
    specials: Specials = Specials.IEEE
    signed: bool = True
    subnormals: bool = True
    zero: bool = True

    def __post_init__(self) -> None:
        if not (1 <= self.exponent_bits <= 8 and 0 <= self.mantissa_bits <= 23):
            raise FormatError(
                f"a float format has 1 to 8 exponent bits and 0 to 23 mantissa bits, so that float32 holds its "
                f"values; not {self.exponent_bits} and {self.mantissa_bits}"
            )
        if self.specials is Specials.IEEE and self.mantissa_bits == 0:
            raise FormatError("without mantissa bits there is no room for both Inf and NaN: choose fn, fnuz or f")
        if self.specials is Specials.NAN_FOR_NEGATIVE_ZERO and not (self.signed and self.zero):
            raise FormatError("fnuz needs the code of -0 for NaN: the format must be signed and have a zero")
        if not self.zero and (self.mantissa_bits or self.signed):
            raise FormatError("only an unsigned format without mantissa bits can do without zero (a scale, like e8m0)")
        if self._top_exponent_field < 1:
            raise FormatError(f"{self.fields}: the special codes leave no finite number")
        if self.max_exponent > _FLOAT32_MAX_EXPONENT or self.min_exponent - self.mantissa_bits < (
            _FLOAT32_LEAST_EXPONENT
        ):
            raise FormatError(
                f"{self.fields} with bias {self.bias} reaches from 2**{self.min_exponent - self.mantissa_bits} "
                f"to 2**{self.max_exponent}; float32 holds 2**-149 to 2**127: choose another bias or fewer bits"
            )

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number."""
        return (1 if self.zero else 0) - self.bias

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite number (``emax_elem`` of OCP MX)."""
        return self._top_exponent_field - self.bias

    @property
    def max(self) -> float:
        """Largest finite number."""
        unit = 2.0**-self.mantissa_bits
        all_ones_is_nan = self.specials is Specials.NAN_ONLY and self.mantissa_bits > 0
        return 2.0**self.max_exponent * (2 - unit * (2 if all_ones_is_nan else 1))

    @property
    def min_normal(self) -> float:
        """Smallest positive normal number."""
        return 2.0**self.min_exponent

    @property
    def min_positive(self) -> float:
        """Smallest positive number: subnormal, if there are subnormals."""
        step = self.min_normal * 2.0**-self.mantissa_bits
        return step if self.subnormals and self.mantissa_bits and self.zero else self.min_normal

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next number of this precision, ``2**-mantissa_bits``."""
        return 2.0**-self.mantissa_bits

    @property
    def has_infinity(self) -> bool:
        """Whether there is a code for Inf."""
        return self.specials is Specials.IEEE

    @property
    def has_nan(self) -> bool:
        """Whether there is a code for NaN."""
        return self.specials is not Specials.NONE

    @property
    def grid(self) -> Grid:
        """The finite values."""
        return _grid(self)

    @property
    def _top_exponent_field(self) -> int:
        """The highest exponent field that holds a finite number."""
        top = (1 << self.exponent_bits) - 1
        reserved = self.specials is Specials.IEEE or (self.specials is Specials.NAN_ONLY and self.mantissa_bits == 0)
        return top - int(reserved)

    @property
    def fields(self) -> str:
        """The text form without short names: ``e4m3fn`` for fp8_e4m3."""
        bias = "" if self.bias == _ieee_bias(self.exponent_bits) else f"b{self.bias}"
        ends = f"{self.specials}{'' if self.zero else 'nz'}{'' if self.subnormals else 'ftz'}"
        return f"{'' if self.signed else 'u'}e{self.exponent_bits}m{self.mantissa_bits}{bias}{ends}"

    def __str__(self) -> str:
        return _NAMES.get(self) or self.fields

    @classmethod
    def parse(cls, text: str) -> FloatFormat:
        """Read `text`, the inverse of ``str``. Raises FormatError."""
        if text in FLOATS:
            return FLOATS[text]
        match = _TEXT.match(text)
        if match is None:
            raise FormatError(f"{text!r} is not a float format; for example bf16, fp8_e4m3, e3m4, e4m3b11fnuz")
        bits = int(match[2])
        return cls(
            bits,
            int(match[3]),
            _ieee_bias(bits) if match[4] is None else int(match[4]),
            Specials(match[5] or ""),
            signed=not match[1],
            subnormals=not match[7],
            zero=not match[6],
        )


@lru_cache(256)
def _grid(format: FloatFormat) -> Grid:
    lowest = -format.max if format.signed else (0.0 if format.zero else format.min_normal)
    negative_zero = format.signed and format.zero and format.specials is not Specials.NAN_FOR_NEGATIVE_ZERO
    return Grid(
        format.mantissa_bits,
        format.min_exponent,
        lowest,
        format.max,
        flush=not format.subnormals,
        zero=format.zero,
        infinity=format.has_infinity,
        nan=format.has_nan,
        negative_zero=negative_zero,
    )


def _ieee_bias(exponent_bits: int) -> int:
    return (1 << (exponent_bits - 1)) - 1 if exponent_bits else 0


FP32 = FloatFormat(8, 23, 127)
TF32 = FloatFormat(8, 10, 127)
BF16 = FloatFormat(8, 7, 127)
FP16 = FloatFormat(5, 10, 15)
E5M2 = FloatFormat(5, 2, 15)
E4M3 = FloatFormat(4, 3, 7, Specials.NAN_ONLY)
E5M2_FNUZ = FloatFormat(5, 2, 16, Specials.NAN_FOR_NEGATIVE_ZERO)
E4M3_FNUZ = FloatFormat(4, 3, 8, Specials.NAN_FOR_NEGATIVE_ZERO)
E3M4 = FloatFormat(3, 4, 3)
E3M2 = FloatFormat(3, 2, 3, Specials.NONE)
E2M3 = FloatFormat(2, 3, 1, Specials.NONE)
E2M1 = FloatFormat(2, 1, 1, Specials.NONE)
E8M0 = FloatFormat(8, 0, 127, Specials.NAN_ONLY, signed=False, zero=False)

FLOATS = {
    "fp32": FP32,
    "tf32": TF32,
    "bf16": BF16,
    "fp16": FP16,
    "fp8_e5m2": E5M2,
    "fp8_e4m3": E4M3,
    "fp8_e5m2fnuz": E5M2_FNUZ,
    "fp8_e4m3fnuz": E4M3_FNUZ,
    "fp8_e3m4": E3M4,
    "fp6_e3m2": E3M2,
    "fp6_e2m3": E2M3,
    "fp4_e2m1": E2M1,
    "e8m0": E8M0,
}
"""The float formats that have a name of their own."""

_NAMES = {format: name for name, format in FLOATS.items()}
