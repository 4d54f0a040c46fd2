"""SQNR, clipping and underflow against a plain loop, and the values that each must take by definition."""

from __future__ import annotations

from fractions import Fraction
from math import inf, isnan, log10

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.formats.numerics import fidelity as module
from fewbits.formats.numerics.fidelity import decibels, fidelity, noise_to_signal
from fewbits.formats.numerics.reach import TileReach

Float = NDArray[np.float32]
FLOATS = st.floats(width=32)


def limits(tile: tuple[int, ...], low: object, high: object) -> TileReach:
    bounds = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return TileReach(tile, np.zeros_like(bounds[0]), np.zeros_like(bounds[0]), *bounds)


def exact_sqnr(x: Float, y: Float) -> float:
    """By the definition, in rational numbers."""
    pairs = [(Fraction(float(a)), Fraction(float(b))) for a, b in zip(x.flat, y.flat, strict=True)]
    signal, noise = sum(a * a for a, _ in pairs), sum((a - b) ** 2 for a, b in pairs)
    if noise == 0:
        return inf
    # Numerator and denominator are integers of any size, which log10 takes.
    return -inf if signal == 0 else 10 * sum(log10(one.numerator) - log10(one.denominator) for one in (signal / noise,))


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_sqnr_is_the_ratio_of_the_energies(x: Float) -> None:
    y = x.astype(np.float16).clip(-6e4, 6e4).astype(np.float32) if np.abs(x).max() < 6e4 else x / np.float32(3)
    measured, wanted = fidelity(x, y).sqnr, exact_sqnr(x, y)
    assert measured == wanted or measured == pytest.approx(wanted, abs=1e-9)


def test_what_a_half_step_of_noise_gives() -> None:
    x = np.full(1000, 10.0, np.float32)
    assert fidelity(x, x + 1).sqnr == pytest.approx(20.0)
    assert fidelity(x, x / 2).sqnr == pytest.approx(20 * log10(2))


def test_nothing_changed() -> None:
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    found = fidelity(x, x.copy())
    assert (found.sqnr, found.max_error, found.clipped, found.underflowed) == (inf, 0.0, 0, 0)
    assert found.noise_to_signal == 0


def test_zeros_that_stay_zeros_are_exact_and_those_that_do_not_are_lost() -> None:
    zeros = np.zeros((3, 4), np.float32)
    assert fidelity(zeros, zeros).sqnr == inf
    assert fidelity(zeros, zeros + 1).sqnr == -inf


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1, 1, 1, 1)])
def test_every_shape(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 3.0, np.float32)
    found = fidelity(x, x - 1)
    assert found.elements == found.finite == x.size
    assert found.max_error == (1.0 if x.size else 0.0)
    assert found.sqnr == (pytest.approx(20 * log10(3)) if x.size else inf)


def test_underflow_is_what_was_not_zero_and_became_zero() -> None:
    x = np.array([0.0, -0.0, 1e-9, -1e-9, 1.0], np.float32)
    y = np.array([0.0, 0.0, 0.0, -0.0, 1.0], np.float32)
    found = fidelity(x, y)
    assert found.underflowed == 2
    assert found.underflowed_share == pytest.approx(0.4)


def test_nan_and_inf_are_left_out_and_counted() -> None:
    x = np.array([1.0, np.nan, np.inf, -np.inf, 2.0], np.float32)
    y = np.array([1.0, np.nan, 448.0, -448.0, 1.0], np.float32)
    found = fidelity(x, y, limits((5,), [-448.0], [448.0]))
    assert (found.elements, found.finite, found.clipped) == (5, 2, 0)
    assert found.sqnr == pytest.approx(10 * log10(5))
    nothing = fidelity(x[1:4], y[1:4])
    assert (nothing.finite, nothing.sqnr, nothing.clipped_share) == (0, inf, 0.0)


@pytest.mark.parametrize("lost", [np.inf, -np.inf, np.nan])
def test_a_number_that_became_none_is_an_infinite_error(lost: float) -> None:
    found = fidelity(np.array([1.0, 2.0], np.float32), np.array([1.0, lost], np.float32))
    assert (found.sqnr, found.max_error, found.noise_to_signal) == (-inf, inf, inf)


@pytest.mark.parametrize("size", [1e-320, 1e-300, 1e-150, 1e150, 1e300, 1.7e308])
def test_the_limits_of_float64_are_no_limit(size: float) -> None:
    x = np.array([1.0, -1.0, 0.5]) * size
    assert fidelity(x, x * 0.5).sqnr == pytest.approx(20 * log10(2), abs=2.0 if size < 1e-310 else 1e-9)


@pytest.mark.parametrize("shape", [(6,), (5, 7), (2, 3, 8), (1, 30), (30, 1)])
@pytest.mark.parametrize("step", [1, 2, 3, 64])
def test_clipping_is_judged_by_each_tile(shape: tuple[int, ...], step: int) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal(shape).astype(np.float32)
    tile = tuple(min(step, size) for size in shape)
    tiles = tuple(-(-size // part) for size, part in zip(shape, tile, strict=True))
    low, high = -random.uniform(0, 1, tiles), random.uniform(0, 1, tiles)
    wanted = sum(
        not low[place] <= x[index] <= high[place]
        for index in np.ndindex(shape)
        for place in [tuple(i // part for i, part in zip(index, tile, strict=True))]
    )
    assert fidelity(x, x, limits(tile, low, high)).clipped == wanted


def test_the_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((40, 50)).astype(np.float32)
    y = x.astype(np.float16).astype(np.float32)
    reach = limits((40, 8), -random.uniform(0, 1, (1, 7)), random.uniform(0, 1, (1, 7)))
    whole = fidelity(x, y, reach)
    monkeypatch.setattr(module, "_CHUNK", 64)
    pieces = fidelity(x, y, reach)
    assert pieces.sqnr == pytest.approx(whole.sqnr, abs=1e-9)
    assert (pieces.clipped, pieces.underflowed, pieces.max_error) == (whole.clipped, whole.underflowed, whole.max_error)


@given(hnp.arrays(np.float32, (4, 6), elements=FLOATS))
def test_the_layout_in_memory_does_not_matter(x: Float) -> None:
    y = np.where(np.isfinite(x), np.trunc(np.clip(x, -1e9, 1e9)), x)
    reach = limits((4, 3), [[-1.0, -2.0]], [[1.0, 2.0]])
    wide = np.zeros((4, 12), np.float32)
    wide[:, ::2] = x
    assert fidelity(wide[:, ::2], np.asfortranarray(y), reach) == fidelity(x, y, reach)


def test_arrays_of_different_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(2, 3\).*\(3, 2\)"):
        fidelity(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))


@given(st.floats(-300, 300))
def test_decibels_and_back(value: float) -> None:
    assert decibels(1.0, noise_to_signal(value)) == pytest.approx(value, abs=1e-9)


def test_decibels_have_no_undefined_value() -> None:
    assert not any(isnan(decibels(signal, noise)) for signal in (0.0, 1.0) for noise in (0.0, 1.0, inf))
    assert (noise_to_signal(inf), noise_to_signal(-inf)) == (0.0, inf)
