"""Random number formats, and the inputs at which rounding to them is likely to go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st
from numpy.typing import NDArray

from fewbits.errors import FormatError
from fewbits.formats.catalog import CATALOGUE
from fewbits.formats.floating import FloatFormat, Specials
from fewbits.formats.grid import Grid
from fewbits.formats.integer import IntFormat

NUMBERS = {name: format for name, format in CATALOGUE.items() if isinstance(format, IntFormat | FloatFormat)}
"""The integer and float formats that have a name."""


@st.composite
def float_formats(draw: st.DrawFn, max_bits: int = 32) -> FloatFormat:
    """Any float format of at most `max_bits` bits, its bias anywhere in what float32 reaches."""
    signed = draw(st.booleans())
    exponent_bits = draw(st.integers(1, min(8, max_bits - signed)))
    mantissa_bits = draw(st.integers(0, min(23, max_bits - signed - exponent_bits)))
    zero = mantissa_bits > 0 or draw(st.booleans())
    usual = (1 << (exponent_bits - 1)) - 1
    # From the bias that puts the highest field at 2**127 to the one that puts the least number at 2**-149.
    lowest, highest = (1 << exponent_bits) - 2 - 127, 150 - mantissa_bits
    bias = draw(st.just(usual) | st.integers(lowest, max(lowest, highest)))
    specials = draw(st.sampled_from(Specials))
    subnormals = draw(st.booleans())
    try:
        return FloatFormat(exponent_bits, mantissa_bits, bias, specials, signed, subnormals, zero)
    except FormatError:
        reject()


@st.composite
def int_formats(draw: st.DrawFn, max_bits: int = 16) -> IntFormat:
    """Any integer format."""
    signed = draw(st.booleans())
    restricted = signed and draw(st.booleans())
    fraction = draw(st.just(0) | st.integers(0, 64))
    return IntFormat(draw(st.integers(2, max_bits)), signed, restricted, fraction)


def numbers(max_bits: int = 32) -> st.SearchStrategy[IntFormat | FloatFormat]:
    """Any integer or float format of at most `max_bits` bits."""
    return float_formats(max_bits) | int_formats(min(max_bits, 16))


def probes(grid: Grid, seed: int, dtype: type[Any], count: int = 40) -> NDArray[Any]:
    """Values of `dtype` that test `grid`: midpoints and their neighbours, limits, subnormals, Inf, NaN, any bits."""
    rng = np.random.default_rng(seed)
    top = int(np.frexp(grid.high)[1]) + 1
    exponents = rng.integers(grid.min_exponent - 1, max(top, grid.min_exponent) + 1, count)
    steps = np.exp2(np.maximum(exponents, grid.min_exponent) - grid.mantissa_bits)
    unit = 2.0**grid.mantissa_bits
    multiples = np.where(exponents < grid.min_exponent, 0, unit) + rng.integers(0, int(unit), count)
    on_grid = multiples * steps
    special = [0.0, np.inf, np.nan, grid.low, grid.high, grid.min_normal, grid.smallest_step, 5e-324, 2.0**-149, 1e308]
    last_step = 2.0 ** (max(top - 2, grid.min_exponent) - grid.mantissa_bits)
    beyond = [grid.high + share * last_step for share in (0.25, 0.5, 0.75, 1.0)]
    beyond += [grid.low - share * last_step for share in (0.25, 0.5, 0.75, 1.0)]
    word = np.uint64 if dtype is np.float64 else np.uint32
    patterns = rng.integers(0, np.iinfo(word).max, count, word, endpoint=True).view(dtype)
    with np.errstate(all="ignore"):
        exact = np.concatenate(
            [on_grid, on_grid + steps / 4, on_grid + steps / 2, on_grid * rng.random(count), special, beyond]
        ).astype(dtype)
        near = np.concatenate([exact, np.nextafter(exact, dtype(np.inf)), np.nextafter(exact, dtype(-np.inf))])
        return np.concatenate([near, -near, patterns])
