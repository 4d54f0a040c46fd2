"""The methods that choose a range: each names the statistic that it needs and a pure function of it.

Every range is (low, high) with low <= 0 <= high, in the units of the tensor, as
``formats.affine.asymmetric`` takes it; a tensor of zeros gives (0, 0). A restricted format is
symmetric by definition and gets a range that is symmetric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from fewbits.calibration.clipping import least_squares_range
from fewbits.calibration.entropy import entropy_clip
from fewbits.calibration.magnitude_histogram import MagnitudeHistogram
from fewbits.calibration.signed_histogram import SignedHistogram
from fewbits.calibration.statistics import MinMax, Statistic
from fewbits.errors import UsageError
from fewbits.formats.integer import IntFormat

Range = tuple[float, float]
S = TypeVar("S", bound=Statistic)

DEFAULT_PERCENTILE = 99.99


@dataclass(frozen=True, slots=True)
class Method(Generic[S]):
    """How a range is chosen. `str` gives the text from which `method` makes an equal choice."""

    name: str
    statistic: type[S]
    range: Callable[[S, IntFormat], Range]

    def __str__(self) -> str:
        return self.name


def minmax_range(statistic: MinMax, format: IntFormat) -> Range:
    """All values that were seen."""
    return _with_zero(statistic.low, statistic.high, format)


def percentile_range(statistic: SignedHistogram, format: IntFormat, percent: float = DEFAULT_PERCENTILE) -> Range:
    """The middle `percent` of the values; half of the rest is cut off on each side, as ONNX Runtime does."""
    cut = (100.0 - percent) / 200.0
    low, high = statistic.quantile(cut, upper=False), statistic.quantile(1.0 - cut, upper=True)
    return _with_zero(min(low, high), max(low, high), format)


def mse_range(statistic: SignedHistogram, format: IntFormat) -> Range:
    """The range whose quantiser has the least expected squared error."""
    return least_squares_range(statistic, format)


def entropy_range(statistic: MagnitudeHistogram, format: IntFormat) -> Range:
    """The magnitude that loses least information: (0, amax), (-amax, 0), or [-amax, amax] for values of both signs.

    Values of one sign have all codes of `format` for [0, amax] (256 for 8 bits), others half of them.
    An unsigned format has a zero point, so for it the range ends where the values do: no code is spent
    on the empty side of a lopsided tensor (GELU).
    """
    one_sided = (statistic.low >= 0 or statistic.high <= 0) and not format.restricted
    levels = 1 << (format.bits - 1 + int(one_sided))
    clip = entropy_clip(statistic.counts, statistic.width, levels)
    if not one_sided:
        return (-clip, clip) if format.signed else (max(-clip, statistic.low), min(clip, statistic.high))
    return (0.0, clip) if statistic.low >= 0 else (-clip, 0.0)


def percentile(percent: float) -> Method[SignedHistogram]:
    """The percentile method with another share than 99.99. Raises UsageError."""
    if not 0.0 < percent <= 100.0:
        raise UsageError(
            f"the percentile must lie above 0 and at most at 100, not {percent}; for example percentile:99.9"
        )
    return Method(
        "percentile" if percent == DEFAULT_PERCENTILE else f"percentile:{percent!r}",
        SignedHistogram,
        lambda statistic, codes: percentile_range(statistic, codes, percent),
    )


def method(text: str) -> Method[Any]:
    """The method called `text`: a key of `METHODS`, or ``percentile:99.9``. Raises UsageError."""
    name, _, argument = text.partition(":")
    if name == "percentile" and argument:
        try:
            return percentile(float(argument))
        except ValueError as error:
            raise UsageError(f"{argument!r} is not a percentage; write for example percentile:99.9") from error
    if text in METHODS:
        return METHODS[text]
    nearest = get_close_matches(name, METHODS, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise UsageError(f"{text!r} is not a calibration method; choose one of {', '.join(METHODS)}{hint}")


def _with_zero(low: float, high: float, format: IntFormat) -> Range:
    low, high = min(low, 0.0), max(high, 0.0)
    return (min(low, -high), max(high, -low)) if format.restricted else (low, high)


METHODS: Mapping[str, Method[Any]] = MappingProxyType(
    {
        "minmax": Method("minmax", MinMax, minmax_range),
        "percentile": percentile(DEFAULT_PERCENTILE),
        "mse": Method("mse", SignedHistogram, mse_range),
        "entropy": Method("entropy", MagnitudeHistogram, entropy_range),
    }
)
