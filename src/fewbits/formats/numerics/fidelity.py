"""How much of an array is left after rounding: signal to noise, clipping, underflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import frexp, inf, log10, prod

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.formats.numerics.layout import fold
from fewbits.formats.numerics.reach import TileReach

Array = NDArray[np.floating]
_CHUNK = 1 << 18
"""Elements at a time, so that the float64 copies stay in the cache."""
_LEAST_EXPONENT = -1000
"""2**1000 is still finite; what is smaller has its squares in range all the same."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What rounding did to an array of `elements` elements, of which `finite` are finite; the others are left out.

    `sqnr` is the ratio of the mean squares of signal and error in dB: +inf where nothing changed (an array of zeros
    that stays zero, too), -inf where nothing but error is left. `clipped` counts the elements that ended at
    a limit of the format although they lay beyond it by more than half a step, `underflowed` those that were not
    zero and became zero. `max_error` is the largest absolute error.
    """

    elements: int
    finite: int
    sqnr: float
    clipped: int
    underflowed: int
    max_error: float

    @property
    def clipped_share(self) -> float:
        """Clipped elements as a share of the finite ones."""
        return self.clipped / self.finite if self.finite else 0.0

    @property
    def underflowed_share(self) -> float:
        """Underflowed elements as a share of the finite ones."""
        return self.underflowed / self.finite if self.finite else 0.0

    @property
    def noise_to_signal(self) -> float:
        """Energy of the error over energy of the signal: ``10 ** (-sqnr / 10)``, 0 for exact."""
        return noise_to_signal(self.sqnr)


def fidelity(x: Array, y: Array, reach: TileReach | None = None) -> Fidelity:
    """Compare `x` with `y`, what rounding made of it; both of the same shape, of any float type numpy computes with.

    Sums are kept in float64 over a fixed number of elements at a time, so that the memory needed does not grow with
    the array. Without `reach` nothing counts as clipped. An element that is not finite in `x` is left out;
    one that is finite in `x` and not in `y` is an infinite error.

    Raises:
        DataError: the shapes differ.
    """
    if x.shape != y.shape:
        raise DataError(f"an array of shape {x.shape} was compared with one of shape {y.shape}")
    if not x.size:
        return Fidelity(0, 0, inf, 0, 0, 0.0)
    pieces = _Pieces(x, y, reach)
    # Squares are taken of values near 1: those of float64's own limits would leave its range.
    factor = 2.0 ** -max(frexp(_largest(x))[1], _LEAST_EXPONENT)
    signal = noise = worst = 0.0
    finite = clipped = underflowed = 0
    for values, rounded, low, high in pieces:
        usable = np.isfinite(values)
        here = np.where(usable, values, 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.where(usable, np.abs(here - rounded), 0.0)
        error[np.isnan(error)] = inf
        finite += int(np.count_nonzero(usable))
        worst = max(worst, float(error.max(initial=0.0)))
        with np.errstate(over="ignore"):
            signal += float(np.square(here * factor).sum())
            noise += float(np.square(error * factor).sum())
        underflowed += int(np.count_nonzero((here != 0) & (rounded == 0)))
        clipped += int(np.count_nonzero(usable & ((values < low) | (values > high))))
    return Fidelity(x.size, finite, decibels(signal, noise), clipped, underflowed, worst)


def decibels(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)`` of two energies: +inf without noise, -inf with nothing but noise."""
    if noise == 0:
        return inf
    return -inf if signal == 0 or noise == inf else 10 * (log10(signal) - log10(noise))


def noise_to_signal(sqnr: float) -> float:
    """Energy of the error over energy of the signal, from their ratio in dB."""
    return inf if sqnr == -inf else float(10 ** (-sqnr / 10))


class _Pieces:
    """Two arrays and the limits of their tiles, `_CHUNK` elements at a time, in float64."""

    def __init__(self, x: Array, y: Array, reach: TileReach | None) -> None:
        tile = x.shape if reach is None else reach.tile
        self._shape, self._tile = fold(x.shape, tile)
        self._x, self._y = x.reshape(self._shape), y.reshape(self._shape)
        tiles = tuple(-(-size // max(step, 1)) for size, step in zip(self._shape, self._tile, strict=True))
        self._low = np.full((1, 1, 1), -inf) if reach is None else reach.low.reshape(tiles)
        self._high = np.full((1, 1, 1), inf) if reach is None else reach.high.reshape(tiles)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float64], ...]]:
        longest = max(range(len(self._shape)), key=self._shape.__getitem__)
        length = self._shape[longest]
        rest = prod(self._shape) // max(length, 1)
        step = max(1, _CHUNK // max(rest, 1))
        for start in range(0, length, step):
            part = [slice(0, size) for size in self._shape]
            part[longest] = slice(start, min(start + step, length))
            values, rounded = (one[tuple(part)].astype(np.float64) for one in (self._x, self._y))
            yield values, rounded, self._spread(self._low, part), self._spread(self._high, part)

    def _spread(self, limits: NDArray[np.float64], part: list[slice]) -> NDArray[np.float64]:
        """`limits`, one for each tile, as what broadcasts to the elements in `part`."""
        for axis, places in enumerate(part):
            if limits.shape[axis] > 1:
                limits = limits.take(np.arange(places.start, places.stop) // self._tile[axis], axis=axis)
        return limits


def _largest(x: Array) -> float:
    """Largest finite magnitude; 0 where there is none."""
    largest = 0.0
    line = x.reshape(-1)
    for start in range(0, line.size, _CHUNK):
        part = line[start : start + _CHUNK]
        largest = max(largest, float(np.abs(part[np.isfinite(part)]).max(initial=0.0)))
    return largest
