"""The best of several ways to find the codes of a weight, by the error of the layer's outputs on inputs apart.

Every way has layers for which it is best: clipped ranges where few weights are far from the rest, GPTQ where inputs go
together, both where groups are large, HQQ's zero points where weights lie to one side; and what was fitted to some
inputs may lose on others. So all are tried, and the one is taken whose outputs are closest on inputs that none of them
saw.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.numerics.scales import Scales, scales_of
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import dequantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.refine.adaround import adaround
from fewbits.refine.clipping import clipped_scales
from fewbits.refine.gptq import gptq
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.hqq import hqq

Array = NDArray[Any]


class Way(StrEnum):
    """A way to find codes, the simplest first."""

    NEAREST = "rounding to nearest"
    CLIPPED = "clipped ranges"
    HQQ = "HQQ"
    GPTQ = "GPTQ"
    GPTQ_CLIPPED = "GPTQ with clipped ranges"
    GPTQ_HQQ = "GPTQ with HQQ's zero points"
    ADAROUND = "AdaRound"


ALL: Final = frozenset(Way) - {Way.ADAROUND}
"""All that take seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class BestCodes:
    """Codes that were found, the way they were found (`by`), and the mean squared error of the layer's outputs with
    them and with rounding to nearest (`plain_error`)."""

    codes: QTensor[Array]
    by: Way
    error: float
    plain_error: float

    @property
    def share(self) -> float:
        """The error over that of rounding to nearest; 1 where that has none."""
        return self.error / self.plain_error if self.plain_error > 0 else 1.0


def best_codes(
    weight: Array, fitted: Gram, apart: Gram, format: ScaledFormat, ways: Collection[Way] = ALL
) -> BestCodes:
    """The best codes of `weight` (outputs, inputs / groups, *kernel) in `format`, with scales for outputs or for groups
    of a matrix.

    `fitted` are the second moments of the inputs that codes are fitted to, `apart` those of others, by which they are
    judged; of two equal errors the simpler way stays. Rounding to nearest is always among the `ways`; those that the
    format has no place for (HQQ without zero points) are passed over.

    Raises:
        DataError: shapes do not fit, or the weight is not finite.
        FormatError: a granularity whose ranges cannot be clipped.
    """
    found = _ways(weight, fitted, format, {*ways, Way.NEAREST})
    by, best = next(found)
    error = plain = _error(weight, best, apart)
    for name, codes in found:
        if (one := _error(weight, codes, apart)) < error:
            by, best, error = name, codes, one
    return BestCodes(best, by, error, plain)


def judged(weight: Array, apart: Gram, format: ScaledFormat, codes: QTensor[Array] | None) -> BestCodes:
    """The `codes` of `weight` that are known, or rounding to nearest, with the errors as of `best_codes`."""
    nearest = quantize(weight, format)
    plain = _error(weight, nearest, apart)
    if codes is None:
        return BestCodes(nearest, Way.NEAREST, plain, plain)
    return BestCodes(codes, Way.GPTQ, _error(weight, codes, apart), plain)


def learnt_codes(weight: Array, fitted: Gram, apart: Gram, known: BestCodes, iterations: int = 1000) -> BestCodes:
    """`known` codes of `weight`, or those that AdaRound learns with the same scales, if their outputs are closer.

    Raises as `best_codes`.
    """
    q = known.codes
    assert isinstance(q.format, ScaledFormat)
    scales = Scales(q.scale, q.zero_point, q.tensor_scale)
    codes = adaround(weight, fitted, q.format, scales=scales, iterations=iterations)
    error = _error(weight, codes, apart)
    if error >= known.error:
        return known
    return BestCodes(codes, Way.ADAROUND, error, known.plain_error)


def _ways(
    weight: Array, gram: Gram, format: ScaledFormat, wanted: AbstractSet[Way]
) -> Iterator[tuple[Way, QTensor[Array]]]:
    """Codes by each of the `wanted` ways; rounding to nearest is the first."""
    for rounded, solved, find in _PAIRS:
        if wanted.isdisjoint({rounded, solved}) or (rounded is Way.HQQ and not format.asymmetric):
            continue
        scales = find(weight, gram, format)
        if rounded in wanted:
            yield rounded, quantize(weight, format, scale=scales.scale, zero_point=scales.zero_point)
        if solved in wanted:
            yield solved, gptq(weight, gram, format, scales=scales)


def _whole_ranges(weight: Array, _: Gram, format: ScaledFormat) -> Scales[Array]:
    return scales_of(weight, format)


def _moved_zero_points(weight: Array, _: Gram, format: ScaledFormat) -> Scales[Array]:
    """HQQ's zero points, rounded to whole ones: kernels that multiply codes take no others."""
    q = hqq(weight, format).q
    return Scales(q.scale, q.zero_point, q.tensor_scale)


_PAIRS: Final[tuple[tuple[Way, Way, Callable[[Array, Gram, ScaledFormat], Scales[Array]]], ...]] = (
    (Way.NEAREST, Way.GPTQ, _whole_ranges),
    (Way.CLIPPED, Way.GPTQ_CLIPPED, clipped_scales),
    (Way.HQQ, Way.GPTQ_HQQ, _moved_zero_points),
)
"""Rounding to nearest and GPTQ, with scales that are found in the same way."""


def _error(weight: Array, codes: QTensor[Array], gram: Gram) -> float:
    return float(output_errors(dequantize(codes).astype(np.float64) - weight, gram).sum())
