"""Signal to quantisation noise of 4-bit and 8-bit formats on 2**20 Gaussian, Laplace and Student-t(4) samples.

The published table holds for the plainest variants: int4 with ``amax / 7`` as scale (the full range and the restricted
one are the same, because nothing rounds to -8), E4M3 with or without a scale for the tensor, MXFP4 with the floor rule
of OCP, NVFP4 with both of its scales, int8 with one scale for the tensor.

Formats with small blocks do not depend on the draw: other samples give the same within 0.1 dB. Nor does E4M3, but for
how the few largest of heavy-tailed samples happen to be rounded; it gives 31.5 to 31.6 dB. int8 with one scale for the
tensor does: its step is the largest of all samples over 127, and the largest of 2**20 samples is a random number, with
a heavy tail for Student's t. What can be known is the noise for a given largest sample, ``step**2 / 12``. The published
38.9 and 18.6 dB are what the legacy stream of numpy with seed 0 happens to give; those numbers are pinned for this
draw, and the formula for others.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.text import parse

COUNT = 1 << 20
DISTRIBUTIONS = ("gauss", "laplace", "t4")
VARIANCE = {"gauss": 1.0, "laplace": 2.0, "t4": 2.0}

TABLE = {
    "int4/g32": (20.3, 18.3, 17.7),
    "int4r/g32": (20.3, 18.3, 17.7),
    "int4/g128": (18.6, 15.9, 14.3),
    "mxfp4": (18.8, 17.9, 17.6),
    "nvfp4": (20.4, 20.7, 20.7),
}


@cache
def samples(distribution: str, seed: int = 0) -> NDArray[np.float32]:
    """The legacy generator: its stream is promised never to change."""
    rng = np.random.RandomState(seed)
    draw = {
        "gauss": rng.standard_normal,
        "laplace": lambda n: rng.laplace(size=n),
        "t4": lambda n: rng.standard_t(4, n),
    }
    return np.asarray(draw[distribution](COUNT), np.float32)


def sqnr(x: NDArray[np.float32], text: str) -> float:
    noise = x - fake_quantize(x, parse(text)).astype(np.float64)
    return float(10 * np.log10((x.astype(np.float64) ** 2).sum() / (noise**2).sum()))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("text", TABLE)
def test_formats_with_blocks(text: str, distribution: str, seed: int) -> None:
    published = TABLE[text][DISTRIBUTIONS.index(distribution)]
    assert sqnr(samples(distribution, seed), text) == pytest.approx(published, abs=0.1)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("text", ["fp8_e4m3", "fp8_e4m3/tensor"])
def test_e4m3_is_the_same_for_every_distribution(text: str, distribution: str) -> None:
    assert sqnr(samples(distribution), text) == pytest.approx(31.6, abs=0.1)


def test_e4m3_is_the_same_for_other_draws() -> None:
    found = [sqnr(samples(distribution, seed), "fp8_e4m3") for distribution in DISTRIBUTIONS for seed in (0, 1, 2)]
    assert max(found) - min(found) < 0.1


@pytest.mark.parametrize(("distribution", "published"), [("gauss", 38.9), ("t4", 18.6)])
def test_int8_of_the_whole_tensor_for_one_draw(distribution: str, published: float) -> None:
    assert sqnr(samples(distribution), "int8/tensor") == pytest.approx(published, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_int8_of_the_whole_tensor_follows_from_its_largest_sample(distribution: str, seed: int) -> None:
    x = samples(distribution, seed)
    step, power = np.abs(x).max() / 127, np.mean(x.astype(np.float64) ** 2)
    assert sqnr(x, "int8/tensor") == pytest.approx(10 * np.log10(12 * power / step**2), abs=0.1)


@pytest.mark.parametrize(("distribution", "published"), [("gauss", 38.9), ("t4", 18.6)])
def test_the_published_draws_are_ordinary_ones(distribution: str, published: float) -> None:
    largest = 127 * np.sqrt(12 * VARIANCE[distribution] / 10 ** (published / 10))
    tail = {"gauss": stats.norm.sf, "t4": stats.t(4).sf}[distribution](largest)
    smaller = (1 - 2 * tail) ** COUNT  # how often the largest of all samples is smaller than this
    assert 0.05 < smaller < 0.95


def test_int8_of_the_whole_tensor_collapses_where_tails_are_heavy() -> None:
    """The claim behind the two numbers; in nineteen draws of twenty it is 7 dB below E4M3 or more."""
    # What the largest sample exceeds in nineteen draws of twenty.
    exceeded = stats.t(4).isf((1 - 0.05 ** (1 / COUNT)) / 2)
    step = exceeded / 127
    assert 10 * np.log10(12 * VARIANCE["t4"] / step**2) < 31.6 - 7
    assert sqnr(samples("t4"), "int8/tensor") < sqnr(samples("t4"), "fp8_e4m3") - 12
    assert sqnr(samples("gauss"), "int8/tensor") > sqnr(samples("gauss"), "fp8_e4m3") + 7


def test_rounding_the_scale_up_costs_mxfp4_half_a_decibel_at_most() -> None:
    lost = [sqnr(samples(name), "mxfp4") - sqnr(samples(name), "mxfp4-rceil") for name in DISTRIBUTIONS]
    assert max(lost) == pytest.approx(0.5, abs=0.05)
    assert min(lost) == pytest.approx(0.02, abs=0.02)
