"""GPTQ: weights are rounded one input after the other, and what is left of the row makes up for each error.

With H the second moments of the inputs and R the upper triangular matrix with ``H^-1 = R^T R``, rounding column j by
the error e changes the columns behind it by ``-e / R[j, j] * R[j, j+1:]``: the least output error that they can still
reach. Columns are done in blocks, so that the rest of the weight is touched once for each block.

Source: Frantar et al., GPTQ, arXiv 2210.17323, section 3 (algorithm 1; damping, Cholesky form, blocks), and the
authors' code for the order by activations and scales of groups that are fixed beforehand. It differs from them in
three things. A column whose input was always zero is rounded to nearest instead of being set to zero: on the data both
compute the same, on other data nothing is lost. Scales of groups see all updates before them whatever the block is.
And a row whose output error is larger than that of rounding to nearest is rounded to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from fewbits.errors import DataError, FormatError
from fewbits.formats.granularity import Channel, Group
from fewbits.formats.levels import KMeansFormat
from fewbits.formats.numerics import reference
from fewbits.formats.numerics.scales import Scales, per_element, scales_of
from fewbits.formats.qtensor import QTensor
from fewbits.formats.scaled import NestedScale, ScaledFormat
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.layer import as_matrices

Array = NDArray[Any]
Float64 = NDArray[np.float64]


def gptq(
    weight: Array,
    gram: Gram,
    format: ScaledFormat,
    *,
    scales: Scales[Array] | None = None,
    act_order: bool = True,
    damping: float = 0.01,
    block: int = 128,
) -> QTensor[Array]:
    """Codes of `weight` (outputs, inputs / groups, *kernel) in `format` with a small error of the layer's outputs.

    Args:
        weight: of a linear layer or a convolution, finite.
        gram: second moments of its inputs, see `linear_inputs` and `patches`.
        format: integers, floats or a fixed list of levels with scales of any granularity.
        scales: fixed scales; ``None`` takes those of `weight`, and in the natural order those of each group of a
            matrix (``g128``) once it is reached, updates included.
        act_order: inputs with the largest second moment first; it often helps most where scales are shared by a row.
        damping: share of the mean of the moments that is added to their diagonal.
        block: columns at a time; it changes speed and memory, not the result.

    Raises:
        DataError: shapes do not fit, the weight is not finite, or `damping` is too small for moments of too few inputs.
        FormatError: the granularity does not go with the shape, or the format is k-means.
    """
    if isinstance(format.element, KMeansFormat):
        raise FormatError("k-means fits its levels to a whole weight; GPTQ takes a format whose levels are known")
    rows = as_matrices(weight, gram.groups).astype(np.float64)
    if not np.isfinite(rows).all():
        raise DataError("the weight holds NaN or infinity; it cannot be refined")
    fixed = scales_of(weight, format) if scales is None else scales
    nearest = reference.fake_quantize(weight.astype(np.float64), format, fixed)
    errors = output_errors(nearest - weight, gram)
    grid = _Grid.of(fixed, format, weight.shape, gram.groups)
    size = _refreshed(format, weight.shape) if scales is None and not act_order else 0
    orders = _orders(gram, by_activation=act_order)
    roots = np.stack([_root(one, order, damping) for one, order in zip(gram.total, orders, strict=True)])
    found = _rounded(rows, roots, orders, grid, _Cuts(block, size)).reshape(weight.shape)
    better = output_errors(found - weight, gram) < errors
    keep = better.reshape(-1, *(1,) * (weight.ndim - 1))
    values = np.where(keep, found, nearest).astype(weight.dtype)
    if size:
        taken = (values[0, ::size].T for values in (grid.scale, grid.zero))
        scale, zero = (np.where(keep, *pair) for pair in zip(taken, (fixed.scale, fixed.zero_point), strict=True))
        fixed = Scales(scale, zero, fixed.tensor_scale)
    return reference.quantize(values, format, fixed)


@dataclass(frozen=True, slots=True)
class _Cuts:
    """Where columns are cut: into blocks of `block`, and at every start of a group of `size` (0 without groups)."""

    block: int
    size: int

    def spans(self, columns: int) -> list[tuple[int, int]]:
        starts = {*range(0, columns, self.block), *range(0, columns, self.size or columns)}
        edges = [*sorted(starts), columns]
        return list(pairwise(edges))


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """What each element is rounded to: scale and zero point of shape (groups, features, outputs)."""

    format: ScaledFormat
    scale: Array
    zero: Array
    tensor_scale: Array

    @classmethod
    def of(cls, scales: Scales[Array], format: ScaledFormat, shape: tuple[int, ...], groups: int) -> _Grid:
        tile = format.granularity.tile(shape)

        def spread(values: Array) -> Array:
            each = np.ascontiguousarray(per_element(values, tile, shape))
            return as_matrices(each, groups).transpose(0, 2, 1).copy()

        column = ScaledFormat(format.element, Channel(), format.scale, format.asymmetric)
        return cls(column, spread(scales.scale), spread(scales.zero_point), scales.tensor_scale)

    def ordered(self, orders: NDArray[np.intp]) -> _Grid:
        scale, zero = (np.take_along_axis(values, orders[:, :, None], 1) for values in (self.scale, self.zero))
        return _Grid(self.format, scale, zero, self.tensor_scale)

    def round(self, column: Float64, place: int) -> Float64:
        """The column (groups, outputs) at `place`, rounded."""
        scale, zero = (np.ascontiguousarray(values[:, place]).reshape(-1, 1) for values in (self.scale, self.zero))
        scales = Scales(scale, zero, self.tensor_scale)
        return reference.fake_quantize(column.reshape(-1, 1), self.format, scales).reshape(column.shape)

    def refresh(self, values: Float64, start: int) -> None:
        """Take the scales of a group from its `values` (1, features, outputs), which begin at `start`."""
        scales = scales_of(np.ascontiguousarray(values[0].T), self.format)
        places = slice(start, start + values.shape[1])
        self.scale[:, places], self.zero[:, places] = scales.scale[:, 0], scales.zero_point[:, 0]


def _rounded(rows: Float64, roots: Float64, orders: NDArray[np.intp], grid: _Grid, cuts: _Cuts) -> Float64:
    """The values (groups, outputs, features) that algorithm 1 finds, in the original order of the features.

    With cuts at groups the scales in `grid` are replaced by those that were taken when the groups were reached.
    """
    work = np.take_along_axis(rows, orders[:, None], 2).transpose(0, 2, 1).copy()
    steps = grid if cuts.size else grid.ordered(orders)
    found = np.empty_like(work)
    for start, end in cuts.spans(work.shape[1]):
        if cuts.size and start % cuts.size == 0:
            steps.refresh(work[:, start : start + cuts.size], start)
        errors = np.empty((len(work), end - start, work.shape[2]))
        for place in range(start, end):
            found[:, place] = steps.round(work[:, place], place)
            error = (work[:, place] - found[:, place]) / roots[:, place, place, None]
            work[:, place + 1 : end] -= roots[:, place, place + 1 : end, None] * error[:, None]
            errors[:, place - start] = error
        work[:, end:] -= roots[:, start:end, end:].transpose(0, 2, 1) @ errors
    result = np.empty_like(rows)
    np.put_along_axis(result, orders[:, None], found.transpose(0, 2, 1), 2)
    return result


def _orders(gram: Gram, *, by_activation: bool) -> NDArray[np.intp]:
    """The order of the features of every group, (groups, features)."""
    diagonals = np.diagonal(gram.total, axis1=1, axis2=2)
    return np.argsort(-diagonals if by_activation else np.zeros_like(diagonals), axis=1, kind="stable")


def _root(total: Float64, order: NDArray[np.intp], damping: float) -> Float64:
    """The upper triangular R with ``H^-1 = R^T R``, H the damped moments in `order`.

    With J the reversal of the order and ``J H J = L L^T``, R is the inverse of ``J L J``: one Cholesky decomposition
    and one triangular inverse, instead of the inverse of H and its decomposition.
    """
    moments = total[np.ix_(order, order)]
    diagonal = moments.diagonal().copy()
    dead = diagonal == 0
    added = np.where(dead, 1.0, damping * diagonal[~dead].mean()) if not dead.all() else np.ones_like(diagonal)
    moments[np.diag_indices_from(moments)] += added
    try:
        lower = cholesky(moments[::-1, ::-1], lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise DataError(
            f"the second moments of the inputs are singular with a damping of {damping}; use more inputs than "
            "features, or more damping, for example 0.01"
        ) from error
    inverse = solve_triangular(lower, np.eye(len(lower)), lower=True, overwrite_b=True, check_finite=False)
    return np.ascontiguousarray(inverse[::-1, ::-1])


def _refreshed(format: ScaledFormat, shape: tuple[int, ...]) -> int:
    """The size of the groups of a matrix whose scales may wait until they are reached; 0 where there are none."""
    if isinstance(format.scale, NestedScale) or len(shape) != 2:  # nested scales hang on those of the whole tensor
        return 0
    match format.granularity:
        case Group(size=size, axis=-1 | 1):
            return min(size, shape[1])
    return 0
