"""The clip magnitude that loses least information: KL calibration as TensorRT and pytorch-quantization do it.

Source: Migacz, "8-bit inference with TensorRT", GTC 2017; steps of NVIDIA pytorch-quantization,
``_compute_amax_entropy``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewbits.calibration.binning import Counts, before

FIRST_CANDIDATE = 128
# Candidates worked on at once, so that memory stays at a few MB.
_CHUNK = 256


def entropy_clip(counts: Counts, width: float, levels: int) -> float:
    """The clip magnitude ``i * width`` whose divergence is least; the largest of equals; 0 if all values are 0.

    `counts` is a histogram of \\|x\\|, shape (bins,); `levels` is the number of codes for [0, clip], a power of two:
    128 for the positive half of int8, 256 for uint8.
    """
    if counts.size < FIRST_CANDIDATE:
        return 0.0
    distances = divergences(counts, levels)
    last_best = distances.size - 1 - int(np.argmin(distances[::-1]))
    return (last_best + FIRST_CANDIDATE) * width


def divergences(counts: Counts, levels: int) -> NDArray[np.float64]:
    """KL(P || Q) for each clip after i bins, i = 128 … bins; shape (bins - 127,).

    P is ``counts[:i]`` with everything beyond added to its last bin. Q is ``counts[:i]`` in `levels`
    equal segments, each levelled to the mean over its non-empty bins. Bin 0 first takes the count of
    bin 1, so that the spike of exact zeros does not decide. Where P > 0 = Q the divergence is infinite.

    All candidates are made from prefix sums: with b the counts, T their total, t the tail beyond i, S
    the sum up to i, and (s, m) the sum of a segment and its mean over non-empty bins,
    ``T * KL = sum b log b (last bin: b + t) - sum s log m - t log m_last + T log(S / T)``.
    """
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    total = bins.sum()
    if total == 0.0:
        return np.zeros(bins.size - FIRST_CANDIDATE + 1)
    ends = np.arange(FIRST_CANDIDATE, bins.size + 1)
    mass, filled, own = before(bins), before((bins > 0).astype(np.float64)), before(_xlogx(bins))
    # Up to `levels` bins every bin is its own segment, and Q is what the bins are.
    cross, last_mean = own[ends], bins[ends - 1]
    for start in range(max(levels + 1 - FIRST_CANDIDATE, 0), ends.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        cross[chunk], last_mean[chunk] = _levelled(mass, filled, ends[chunk], levels)

    last, kept, tail = bins[ends - 1], mass[ends], total - mass[ends]
    reference = own[ends] - _xlogx(last) + _xlogx(last + tail)
    clipped = tail * np.log(np.where(last_mean > 0, last_mean, 1.0))
    with np.errstate(divide="ignore"):
        distance = (reference - cross - clipped) / total + np.log(kept / total)
    return np.where((tail > 0) & (last == 0), np.inf, distance)


def _levelled(
    mass: NDArray[np.float64], filled: NDArray[np.float64], ends: NDArray[np.int64], levels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each end i > levels: the sum of s log m over the segments of [0, i), and the mean of the last one."""
    # Bin j lies in segment k when k * i / levels <= j: the first bin of each segment is a ceiling.
    edges = -(-ends[:, None] * np.arange(levels + 1) // levels)
    sums, sizes = np.diff(mass[edges]), np.diff(filled[edges])
    means = sums / np.maximum(sizes, 1.0)
    return np.sum(sums * np.log(np.where(means > 0, means, 1.0)), axis=1), means[:, -1]


def _xlogx(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values * np.log(np.where(values > 0, values, 1.0))
