"""A test of the mean of values with a known floor, by betting: valid however often one looks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Stakes from cautious (a loss far within the noise of one sample) to nearly everything (rare values far from the rest).
_STAKES = 1 / (1 + np.exp(-np.linspace(-5.0, 7.0, 13)))[:, None]


def exceeding(values: Values, mean: float, floor: float) -> float:
    """The p-value of "the mean of `values` is at most `mean`", for independent values that are never below `floor`.

    A stake of the capital is bet on every value v at the price `mean` - `floor`: it becomes (v - floor) times its
    share of that price. Under the hypothesis no such bet gains on average, so the capital, averaged over a fixed set
    of stakes, ever exceeds 1 / a with probability at most a (Ville's inequality): the p-value, 1 / capital, may be
    looked at after every sample. Waudby-Smith & Ramdas 2024, Estimating means of bounded random variables by betting
    (JRSS B 86, 1-27), section 4; the average over stakes as in Orabona & Jun 2024, Tight concentrations and
    confidence sequences from the regret of universal portfolio (IEEE Transactions on Information Theory 70, 436-455).

    Raises ValueError on no values, and on one that is below `floor` by more than rounding.
    """
    if not len(values):
        raise ValueError("at least one value is needed")
    if values.min() < floor - 1e-6:
        raise ValueError(f"values must not be below {floor}; {values.min()} was given")
    price, worth = mean - floor, np.maximum(values - floor, 0.0)
    if price <= 0:
        return 0.0 if (worth > 0).any() else 1.0
    capital = np.log1p(_STAKES * (worth / price - 1)).sum(axis=1)
    return float(np.exp(-max(np.logaddexp.reduce(capital) - np.log(len(_STAKES)), 0.0)))
