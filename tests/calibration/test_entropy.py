"""The vectorised divergences against the published steps written out one by one, and pinned thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy as kl_divergence

from fewbits.calibration.entropy import divergences, entropy_clip
from fewbits.calibration.magnitude_histogram import MagnitudeHistogram

SAMPLES = 200_000


def step_by_step(counts: np.ndarray, levels: int, candidates: np.ndarray) -> np.ndarray:
    """Divergence of each candidate, in the order and with the functions of the published description."""
    bins = counts.astype(np.float64).copy()
    bins[0] = bins[1]
    result = []
    for i in candidates:
        reference = bins[:i].copy()
        reference[-1] += bins[i:].sum()
        segment = np.digitize(np.arange(i), np.linspace(0, i, levels + 1)) - 1
        quantised = np.zeros(i)
        for k in np.unique(segment[bins[:i] > 0]):
            start, stop = np.searchsorted(segment, [k, k + 1])
            members = start + np.flatnonzero(bins[start:stop] > 0)
            quantised[members] = bins[members].sum() / members.size
        if quantised.sum() == 0:
            result.append(np.inf)
        else:
            result.append(kl_divergence(reference / reference.sum(), quantised / quantised.sum()))
    return np.array(result)


def histogram(x: np.ndarray) -> MagnitudeHistogram:
    return MagnitudeHistogram.init().update(x.astype(np.float32))


def half_normal(rng: np.random.Generator) -> np.ndarray:
    return np.abs(rng.normal(size=SAMPLES))


def laplace(rng: np.random.Generator) -> np.ndarray:
    return rng.laplace(size=SAMPLES)


def relu_with_outliers(rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([np.maximum(rng.normal(size=SAMPLES), 0), np.full(20, 30.0)])


def log_normal(rng: np.random.Generator) -> np.ndarray:
    return np.exp(rng.normal(size=SAMPLES))


def few(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=200)


CASES = {
    "half-normal": half_normal,
    "Laplace": laplace,
    "ReLU with outliers": relu_with_outliers,
    "log-normal": log_normal,
    "few samples": few,
    "uniform": lambda rng: rng.random(20_000),
    "one value": lambda rng: np.full(100, 0.7),
    "two values": lambda rng: np.repeat([0.2, 0.7], 50),
    "mostly zeros": lambda rng: np.maximum(rng.normal(size=20_000) - 2.5, 0),
    "quantised already": lambda rng: rng.integers(0, 16, 20_000) / 15,
    "tiny": lambda rng: rng.normal(size=20_000) * 1e-30,
    "huge": lambda rng: rng.normal(size=20_000) * 1e30,
}


@pytest.mark.parametrize("levels", [128, 256])
@pytest.mark.parametrize("case", CASES)
def test_divergences_are_those_of_the_published_steps(case: str, levels: int) -> None:
    state = histogram(CASES[case](np.random.default_rng(1)))
    fast = divergences(state.counts, levels)
    # Every 29th candidate, and all near the ends and the best, where the decision falls.
    best = int(np.argmin(fast)) + 128
    chosen = np.unique(
        np.concatenate([np.arange(128, 2049, 29), np.arange(128, 150), np.arange(2030, 2049), best + np.arange(-9, 10)])
    )
    chosen = chosen[(chosen >= 128) & (chosen <= 2048)]
    slow = step_by_step(state.counts, levels, chosen)
    np.testing.assert_allclose(fast[chosen - 128], slow, rtol=1e-9, atol=1e-12)
    assert slow.min() == pytest.approx(slow[list(chosen).index(best)], abs=1e-12)


@pytest.mark.parametrize("case", ["ReLU with outliers", "few samples"])
def test_the_threshold_is_exactly_that_of_the_published_steps(case: str) -> None:
    state = histogram(CASES[case](np.random.default_rng(2)))
    slow = step_by_step(state.counts, 128, np.arange(128, 2049))
    last_best = np.flatnonzero(slow == slow.min())[-1]
    assert entropy_clip(state.counts, state.width, 128) == (128 + last_best) * state.width


def test_a_histogram_that_has_grown_is_searched_to_its_end() -> None:
    rng = np.random.default_rng(3)
    state = histogram(rng.random(2000)).update((3 * rng.random(20_000)).astype(np.float32))
    assert state.counts.size > 2048
    ends = np.arange(128, state.counts.size + 1, 97)
    np.testing.assert_allclose(
        divergences(state.counts, 128)[ends - 128], step_by_step(state.counts, 128, ends), rtol=1e-9, atol=1e-12
    )


# Thresholds published for one sample of 200,000 values each: 4.04 (max 4.85), 10.4 (max 12.0), 4.17 (max
# 30), 20.6 (max 111.8). The arg-min of a flat curve moves with the sample, and so does the bin width, which
# is the sample's maximum / 2048; the median over ten seeds must lie near, each single one in the band.
@pytest.mark.parametrize(
    ("draw", "median", "band"),
    [
        (half_normal, (4.04, 0.25), (3.8, 4.9)),
        (laplace, (10.4, 0.5), (9.0, 12.6)),
        (relu_with_outliers, (4.17, 0.25), (3.5, 5.0)),
        (log_normal, (20.6, 1.5), (18.0, 27.0)),
    ],
)
def test_pinned_thresholds(draw: object, median: tuple[float, float], band: tuple[float, float]) -> None:
    assert callable(draw)
    states = [histogram(draw(np.random.default_rng(seed))) for seed in range(10)]
    clips = [entropy_clip(state.counts, state.width, 128) for state in states]
    assert np.median(clips) == pytest.approx(median[0], abs=median[1])
    assert band[0] <= min(clips) <= max(clips) <= band[1]


def test_the_spike_of_exact_zeros_does_not_decide() -> None:
    x = np.abs(np.random.default_rng(4).normal(size=20_000))
    spiked = histogram(np.concatenate([x, np.zeros(1_000_000)]))
    assert entropy_clip(spiked.counts, spiked.width, 128) == entropy_clip(histogram(x).counts, spiked.width, 128)


def test_all_zeros_have_no_threshold() -> None:
    state = histogram(np.zeros(10))
    assert entropy_clip(state.counts, state.width, 128) == 0.0


def test_a_constant_keeps_its_magnitude() -> None:
    state = histogram(np.full(10, -2.5))
    assert entropy_clip(state.counts, state.width, 128) == 2.5


@pytest.mark.parametrize("power", [-90, -3, 5, 90])
def test_the_threshold_scales_with_the_data(power: int) -> None:
    x = np.random.default_rng(5).laplace(size=20_000).astype(np.float32)
    plain, scaled = histogram(x), histogram(np.ldexp(x, power))
    expected = np.ldexp(entropy_clip(plain.counts, plain.width, 128), power)
    assert entropy_clip(scaled.counts, scaled.width, 128) == expected


def test_more_levels_never_clip_a_histogram_that_they_can_tell_apart() -> None:
    state = histogram(np.random.default_rng(6).normal(size=20_000))
    assert entropy_clip(state.counts, state.width, 1 << 15) == state.counts.size * state.width
    assert divergences(state.counts, 1 << 15)[-1] == pytest.approx(0, abs=1e-12)
