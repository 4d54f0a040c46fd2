"""Layer-wise loss scales: the equations of Zhao et al., Adaptive Loss Scaling, arXiv 1910.12385 (IJCAI 2020).

Numbers in, numbers out; who calls it and when is the business of `fewbits.training.watch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log2, sqrt
from statistics import NormalDist

_SMALLEST_HALVING = 2.0**-3


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean, standard deviation and largest magnitude of a tensor, without any loss scale."""

    mean: float
    deviation: float
    largest: float


def layer_scale(
    error: Moments,
    weight: Moments,
    depth: int,
    alpha: float,
    *,
    least: float,
    largest: float,
    tolerance: float = 1e-3,
    layer_bound: float = 16.0,
    total_bound: float = 1024.0,
) -> float:
    """What a layer multiplies its errors by, a power of two (equations 2 to 6 of the paper).

    `error` are the moments of the incoming errors at the scale `alpha` that they arrive with, `depth` how many
    products one outgoing error sums, `least` and `largest` the range of the format. The outgoing errors are taken for
    normal, with deviation ``sqrt(E[g^2] E[w^2]) sqrt(depth / 2)``, half of the products being zero behind a ReLU. At
    least what keeps the share that underflows below `tolerance`, at most what cannot overflow, nor exceed the bounds.
    1 for errors or weights that are all zero, or of one value.
    """
    usable = (error.deviation, error.largest, weight.deviation, weight.largest)
    if not all(isfinite(value) and value > 0 for value in usable):
        return 1.0
    spread = sqrt((error.deviation**2 + error.mean**2) * (weight.deviation**2 + weight.mean**2)) * sqrt(depth / 2)
    # sqrt(2) erfinv(p) is the quantile of the normal distribution at (1 + p) / 2.
    low = least / (spread * NormalDist().inv_cdf((1 + tolerance) / 2))
    high = (largest / depth) / (error.largest * weight.largest)
    beta = min(max(low, 1.0), high)
    beta = min(beta, total_bound / alpha, layer_bound)
    return 2.0 ** floor(log2(beta)) if beta > 0 and isfinite(beta) else 1.0


def join_scale(alphas: Sequence[float], magnitudes: Sequence[float], largest: float) -> float:
    """The one scale that the errors of all branches get where they are added (section 4.3 of the paper).

    `magnitudes` are the largest magnitudes of the branches without scale. The largest of `alphas` at which none of them
    overflows; if there is none, the smallest, halved up to three times.
    """
    for alpha in sorted(alphas, reverse=True):
        if all(magnitude * alpha < largest for magnitude in magnitudes):
            return alpha
    least, alpha = min(alphas), min(alphas)
    while alpha > least * _SMALLEST_HALVING:
        alpha /= 2
        if all(magnitude * alpha < largest for magnitude in magnitudes):
            break
    return alpha
