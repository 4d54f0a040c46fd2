"""The range with the least expected squared error of quantising, found on a signed histogram.

For a step s the codes are the multiples of s from ``a * s`` to ``(a + levels - 1) * s`` with a <= 0, as
in ``formats.affine.asymmetric``; the search is over (s, a). Source of the criterion: Shin et al.,
ICASSP 2016; Krishnamoorthi, arXiv 1806.08342.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from fewbits.calibration.binning import before
from fewbits.calibration.signed_histogram import SignedHistogram
from fewbits.formats.integer import IntFormat

Float = NDArray[np.float64]

_POINTS_PER_BIN = 4
# Steps from that of the whole range down to 1/64 of it, each 7 % below the one before; then finer around the best.
_SHRINKS = np.geomspace(1.0, 1 / 64, 64)
_FINER = np.geomspace(1.07, 1 / 1.07, 33)
_OFFSETS = 256


def least_squares_range(histogram: SignedHistogram, format: IntFormat) -> tuple[float, float]:
    """The range (low, high), 0 within, whose quantiser has the least mean squared error.

    Values are taken as spread evenly over their bin, except exact zeros, which cost nothing. A
    restricted format gives a symmetric range. All zeros give (0, 0).
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if format.restricted:
        low, high = min(low, -high), max(high, -low)
    unit = max(-low, high)
    if unit == 0.0:
        return 0.0, 0.0
    sample = _Sample.of(histogram, unit)
    low, high = low / unit, high / unit
    full = (high - low) / (format.levels - 1)
    coarse = [_best_offset(sample, full * float(shrink), low, high, format) for shrink in _SHRINKS]
    centre = _best(coarse).step
    fine = [_best_offset(sample, min(full, centre * float(shrink)), low, high, format) for shrink in _FINER]
    best = _best([*coarse, *fine])
    return best.offset * best.step * unit, (best.offset + format.levels - 1) * best.step * unit


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A quantiser, by its step and lowest code, and its mean squared error."""

    error: float
    step: float
    offset: int


@dataclass(frozen=True, slots=True)
class _Sample:
    """Ascending points `x` with weights, and the sums of weight * x**p over the points before each, p = 0, 1, 2."""

    x: Float
    weight: Float
    moments: tuple[Float, Float, Float]

    @classmethod
    def of(cls, histogram: SignedHistogram, unit: float) -> _Sample:
        """The non-zero values of `histogram` in units of `unit`, several points per bin."""
        counts = histogram.counts.astype(np.float64)
        counts[-histogram.first] -= histogram.zeros
        filled = np.flatnonzero(counts)
        left = (filled + histogram.first) * histogram.width
        within = (np.arange(_POINTS_PER_BIN) + 0.5) / _POINTS_PER_BIN
        x = (left[:, None] / unit + histogram.width / unit * within).reshape(-1)
        weight = np.repeat(counts[filled] / histogram.count / _POINTS_PER_BIN, _POINTS_PER_BIN)
        return cls(x, weight, (before(weight), before(weight * x), before(weight * x * x)))


def _best_offset(sample: _Sample, step: float, low: float, high: float, format: IntFormat) -> _Candidate:
    """The best lowest code for `step`, with its mean squared error."""
    span = format.levels - 1
    least = max(floor(low / step), -span)
    most = max(min(0, ceil(high / step) - span), least)
    if format.restricted:
        least = most = format.qmin
    offsets = np.unique(np.linspace(least, most, min(_OFFSETS, most - least + 1)).round())
    errors = _errors(sample, step, offsets * step, (offsets + span) * step)
    best = int(np.argmin(errors))
    return _Candidate(float(errors[best]), step, int(offsets[best]))


def _best(candidates: list[_Candidate]) -> _Candidate:
    """The least error; among equals the largest step, which clips least."""
    return min(candidates, key=lambda candidate: (candidate.error, -candidate.step))


def _errors(sample: _Sample, step: float, lows: Float, highs: Float) -> Float:
    """Mean squared error of rounding to multiples of `step`, clipped to each [lows, highs]."""
    rounding = sample.x - step * np.rint(sample.x / step)
    rounded = before(sample.weight * rounding * rounding)
    first, last = np.searchsorted(sample.x, lows), np.searchsorted(sample.x, highs)
    mass, mean, square = sample.moments
    below = square[first] - 2 * lows * mean[first] + lows * lows * mass[first]
    above = (square[-1] - square[last]) - 2 * highs * (mean[-1] - mean[last]) + highs * highs * (mass[-1] - mass[last])
    errors: Float = rounded[last] - rounded[first] + below + above
    return errors
