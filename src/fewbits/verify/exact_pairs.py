"""An exact test for scores of 0 and 1 in pairs: how surely is the share of losses minus that of gains above a margin?

Most pairs agree where a model was quantised, so few decide, and normal approximations break: with no discordant pair
at all, a Wald interval has width 0. Here every outcome that would speak as loudly is counted out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Counts = NDArray[np.int64]
_POINTS = 25
# What is left out at either end of the sum over gains; added to the result, so that it never errs downwards.
_TAIL = 1e-9
_SAME = 1e-9


def exceeding(losses: int, gains: int, samples: int, margin: float, slack: float) -> float:
    """The p-value of "P(loss) - P(gain) is at most `margin`", from counts among `samples` independent pairs.

    Exact and unconditional: outcomes are ordered by the score statistic of Tango 1998 (Statistics in Medicine 17,
    891-908), and the p-value is the largest probability, over the unknown P(gain), of an outcome at least as
    extreme, on the boundary of the hypothesis (Sidik 2003, Statistics in Medicine 22, 265-278). P(gain) is sought
    within its Clopper-Pearson interval at confidence 1 - `slack`, and `slack` is added (Berger & Boos 1994, JASA 89,
    1012-1016): a p-value is never below it, so it must be well below the level that is tested. The maximum is taken
    over 25 values of P(gain), about a third of its standard error apart.

    Raises ValueError on counts that are negative or more than `samples`, and on no samples.
    """
    if samples < 1 or losses < 0 or gains < 0 or losses + gains > samples:
        raise ValueError(f"{losses} losses and {gains} gains cannot be among {samples} pairs")
    if margin >= 1:
        return 1.0
    most = (1 - margin) / 2
    least, highest = _share(gains, samples, slack)
    low, high = max(min(least, most), 0.0, -margin), min(highest, most)
    if low > high:
        return slack
    share = np.linspace(low, high, _POINTS)[:, None]
    gained = np.arange(stats.binom.ppf(_TAIL, samples, low), stats.binom.isf(_TAIL, samples, high) + 1, dtype=np.int64)
    gained = gained[(gained >= 0) & (gained <= samples)]
    lost = _fewest_losses(losses, gains, samples, margin, gained)
    rest = np.clip((share + margin) / np.maximum(1 - share, np.finfo(np.float64).tiny), 0.0, 1.0)
    extreme = stats.binom.pmf(gained, samples, share) * stats.binom.sf(lost - 1, samples - gained, rest)
    return float(min(extreme.sum(axis=1).max() + 2 * _TAIL + slack, 1.0))


def score(losses: Counts, gains: Counts, samples: int, margin: float) -> NDArray[np.float64]:
    """Tango's statistic: the excess of losses over the margin, in its standard errors under the hypothesis."""
    # P(gain) by maximum likelihood under P(loss) - P(gain) = margin (Tango 1998).
    middle = (2 * samples - losses + gains) * margin - losses - gains
    last = -gains * margin * (1 - margin)
    share = (np.sqrt(np.maximum(middle**2 - 8 * samples * last, 0.0)) - middle) / (4 * samples)
    variance = np.maximum(samples * (2 * share + margin * (1 - margin)), 0.0)
    excess = losses - gains - samples * margin
    # Without variance every outcome but one is impossible.
    certain = np.where(np.abs(excess) < _SAME, 0.0, np.copysign(np.inf, excess))
    return np.where(variance > _SAME, excess / np.sqrt(np.maximum(variance, _SAME)), certain)


def _share(gains: int, samples: int, slack: float) -> tuple[float, float]:
    interval = stats.binomtest(gains, samples).proportion_ci(1 - slack, method="exact")
    return float(interval.low), float(interval.high)


def _fewest_losses(losses: int, gains: int, samples: int, margin: float, gained: Counts) -> Counts:
    """Per number in `gained`, the fewest losses that are as extreme as what was seen; samples - gained + 1 if none."""
    seen = score(np.array(losses), np.array(gains), samples, margin) - _SAME
    below, reached = np.full_like(gained, -1), samples - gained + 1
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        enough = score(middle, gained, samples, margin) >= seen
        below, reached = np.where(enough, below, middle), np.where(enough, middle, reached)
    return reached
