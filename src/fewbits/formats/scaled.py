"""A format with scales: which element, what shares a scale, and what a scale may be.

Integers per channel, fp8 per tensor, MX, NVFP4, block floating point and dynamic fixed point are all one value of
three fields: they differ in element, tile and scale alone.

Sources: OCP Microscaling Formats v1.0; NVIDIA, arXiv 2506.08027 (RCEIL) and Transformer Engine's documentation
(NVFP4); Drumond et al., HBFP, arXiv 1804.01526 (block floating point); Courbariaux et al., arXiv 1412.7024
(dynamic fixed point).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fewbits.errors import FormatError
from fewbits.formats.floating import E4M3, E8M0, FP32, FloatFormat
from fewbits.formats.granularity import Granularity
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat

Element = IntFormat | FloatFormat | BinaryFormat | TernaryFormat | CodebookFormat | KMeansFormat


class ScaleRule(StrEnum):
    """Which power of two ``2**k`` scales a block whose largest finite magnitude is `amax`.

    `max` and `emax` are the element's largest value and its exponent.
    """

    FLOOR = "floor"
    """``k = floor(log2 amax) - emax`` (OCP MX v1.0, section 6.3): what lies above `max` is clipped."""
    CEIL = "ceil"
    """``k = ceil(log2 amax) - emax``: nothing is clipped."""
    RCEIL = "rceil"
    """The least k with ``amax <= max * 2**k``: nothing is clipped, and no bit is wasted (arXiv 2506.08027)."""
    EVEN = "even"
    """As FLOOR, after rounding `amax` half up to the element's number of mantissa bits (torchao's EVEN)."""


@dataclass(frozen=True, slots=True)
class RealScale:
    """Scales are float32, ``amax / max``."""

    def __str__(self) -> str:
        return "real"


@dataclass(frozen=True, slots=True)
class PowerOfTwoScale:
    """Scales are powers of two, stored in `storage`; text ``e8m0-rceil``, ``pow2-floor``.

    `storage` E8M0 limits exponents to -127..127. FP32 (``pow2``) does not limit them: 2**-149 is float32's
    own resolution, so the exponent of a block is exact whatever the block holds.
    """

    rule: ScaleRule = ScaleRule.FLOOR
    storage: FloatFormat = E8M0

    def __post_init__(self) -> None:
        if self.storage not in (E8M0, FP32):
            raise FormatError(f"powers of two are stored as e8m0 or fp32, not as {self.storage}")

    def __str__(self) -> str:
        storage = "pow2" if self.storage == FP32 else "e8m0"
        return storage if self.rule is ScaleRule.FLOOR else f"{storage}-{self.rule}"


@dataclass(frozen=True, slots=True)
class NestedScale:
    """Scales of blocks in a small float format, times one float32 scale for the whole tensor (NVFP4)."""

    block: FloatFormat = E4M3

    def __str__(self) -> str:
        return f"nested-{self.block}"


Scale = RealScale | PowerOfTwoScale | NestedScale
REAL = RealScale()


@dataclass(frozen=True, slots=True)
class ScaledFormat:
    """Elements that share scales, ``x ~ scale * (element - zero_point)``; text ``int8r/channel``, ``int8/tensor/pow2``.

    `asymmetric` gives every scale an integer zero point, so that the range need not be symmetric; unsigned
    integers are asymmetric unless said otherwise (``/sym``), signed ones symmetric unless said otherwise
    (``/asym``). The text form round-trips; see `fewbits.formats.text`.
    """

    element: Element
    granularity: Granularity
    scale: Scale = REAL
    asymmetric: bool | None = None  # None in the constructor only: the element's own way

    def __post_init__(self) -> None:
        own = self.own_asymmetry
        if self.asymmetric is None:
            object.__setattr__(self, "asymmetric", own)
        if self.asymmetric and not isinstance(self.element, IntFormat):
            raise FormatError(f"only integers have a zero point; {self.element} has none")
        if self.asymmetric and self.scale != REAL:
            raise FormatError(f"a zero point needs real scales, not {self.scale}; without one it is written /sym")
        if self.scale != REAL and not isinstance(self.element, IntFormat | FloatFormat):
            raise FormatError(f"{self.element} takes real scales only, not {self.scale}")
        if isinstance(self.element, FloatFormat) and not self.element.zero:
            raise FormatError(f"{self.element} has no zero: it can be a scale, but not an element that is scaled")

    @property
    def own_asymmetry(self) -> bool:
        """Whether the element is asymmetric unless said otherwise."""
        return isinstance(self.element, IntFormat) and not self.element.signed

    @property
    def bits(self) -> int:
        """Bits of one element, without its share of the scales."""
        return self.element.bits


Format = Element | ScaledFormat


def element_of(format: Format) -> Element:
    """The element of a format with scales; any other format is one itself."""
    return format.element if isinstance(format, ScaledFormat) else format
