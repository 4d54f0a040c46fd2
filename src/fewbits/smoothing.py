"""Factors of smoothing as a plan holds them: one for each channel of a tensor, powers of the fourth root of two.

So close to each other that nothing is lost by rounding to one: smoothing leaves the function as it is, whatever the
factors (SmoothQuant, Xiao et al. 2023, equation 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewbits.errors import PlanError

_STEPS = 4
_MOST = 30 * _STEPS


def text(factors: ArrayLike) -> str:
    """`factors` > 0 as whole exponents with a space between them; `parse` gives them back rounded, each to the closest
    power (in the logarithm) between 2^-30 and 2^30."""
    steps = np.rint(np.log2(np.asarray(factors, np.float64)) * _STEPS)
    return " ".join(str(int(step)) for step in np.clip(steps, -_MOST, _MOST))


def parse(exponents: str) -> NDArray[np.float32]:
    """The inverse of `text`. Raises PlanError."""
    try:
        found = [int(word) for word in exponents.split()]
    except ValueError as error:
        raise PlanError(
            f"the plan's factors of smoothing are whole numbers with spaces between them; {error}"
        ) from error
    if not found or max(map(abs, found)) > _MOST:
        raise PlanError(
            f"the plan's factors of smoothing are from -{_MOST} to {_MOST}, one for each channel; tune again"
        )
    return np.exp2(np.asarray(found, np.float64) / _STEPS).astype(np.float32)
