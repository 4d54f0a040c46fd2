"""The best of several ways to find the codes of a weight, by the error of the layer's outputs on inputs apart.

Every way has layers for which it is best: clipped ranges where few weights are far from the rest, GPTQ where inputs go
together, both where groups are large; and what was fitted to some inputs may lose on others. So all are tried, and the
one is taken whose outputs are closest on inputs that none of them saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.formats.numerics.scales import scales_of
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import dequantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.refine.clipping import clipped_scales
from fewbits.refine.gptq import gptq
from fewbits.refine.gram import Gram, output_errors

Array = NDArray[Any]

NEAREST = "rounding to nearest"
CLIPPED = "clipped ranges"
GPTQ = "GPTQ"
GPTQ_CLIPPED = "GPTQ with clipped ranges"


@dataclass(frozen=True, slots=True, eq=False)
class BestCodes:
    """Codes that were found, the way they were found (`by`), and the mean squared error of the layer's outputs with
    them and with rounding to nearest (`plain_error`)."""

    codes: QTensor[Array]
    by: str
    error: float
    plain_error: float


def best_codes(weight: Array, fitted: Gram, apart: Gram, format: ScaledFormat) -> BestCodes:
    """The best codes of `weight` (outputs, inputs) in `format`, with scales for outputs or for groups of a matrix.

    `fitted` are the second moments of the inputs that codes are fitted to, `apart` those of others, by which they are
    judged; of two equal errors the simpler way stays.

    Raises:
        DataError: shapes do not fit, or the weight is not finite.
        FormatError: a granularity whose ranges cannot be clipped.
    """
    ways = _ways(weight, fitted, format)
    by, best = next(ways)
    error = plain = _error(weight, best, apart)
    for name, codes in ways:
        if (found := _error(weight, codes, apart)) < error:
            by, best, error = name, codes, found
    return BestCodes(best, by, error, plain)


def _ways(weight: Array, gram: Gram, format: ScaledFormat) -> Iterator[tuple[str, QTensor[Array]]]:
    whole, clipped = scales_of(weight, format), clipped_scales(weight, gram, format)
    for name, solved, scales in ((NEAREST, GPTQ, whole), (CLIPPED, GPTQ_CLIPPED, clipped)):
        yield name, quantize(weight, format, scale=scales.scale, zero_point=scales.zero_point)
        yield solved, gptq(weight, gram, format, scales=scales)


def _error(weight: Array, codes: QTensor[Array], gram: Gram) -> float:
    return float(output_errors(dequantize(codes).astype(np.float64) - weight, gram).sum())
