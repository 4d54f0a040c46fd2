"""Second moments of a layer's inputs, and the error of its outputs that a change of the weight causes.

For ``y = W x`` the mean squared error of output i is ``d_i E[x x^T] d_i^T`` with ``d_i`` the change of row i: all that
the inputs have to say about it is one matrix, which sums up while they stream by (Frantar et al., GPTQ, arXiv
2210.17323, section 3; the Hessian there is twice this).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.refine.layer import as_matrices

Array = NDArray[Any]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Gram:
    """The sum of ``x x^T`` over `count` inputs x, of shape (groups, features, features), float64."""

    total: Float64
    count: int = 0

    @classmethod
    def empty(cls, features: int, groups: int = 1) -> Gram:
        """Of no inputs yet."""
        return cls(np.zeros((groups, features, features)))

    @classmethod
    def of(cls, inputs: Array) -> Gram:
        """Of `inputs` (groups, samples, features). Raises DataError if they are not all finite."""
        return cls.empty(inputs.shape[-1], inputs.shape[0]).update(inputs)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.total)

    @property
    def mean(self) -> Float64:
        """``E[x x^T]``; zeros before any input."""
        return self.total / max(self.count, 1)

    def update(self, inputs: Array) -> Gram:
        """With more `inputs` (groups, samples, features). Raises DataError if they do not fit or are not finite."""
        if inputs.ndim != 3 or (inputs.shape[0], inputs.shape[2]) != self.total.shape[:2]:
            raise DataError(
                f"inputs have shape (groups, samples, features) with {self.groups} groups and {self.total.shape[1]} "
                f"features here, not {inputs.shape}; see linear_inputs and patches"
            )
        x = inputs.astype(np.float64)
        if not np.isfinite(x).all():
            raise DataError("inputs hold NaN or infinity; leave those samples out")
        return Gram(self.total + x.transpose(0, 2, 1) @ x, self.count + inputs.shape[1])


def output_errors(change: Array, gram: Gram) -> Float64:
    """Mean squared error of every output (outputs,) of a layer whose weight is changed by `change`, the weight's shape.

    Raises DataError if `gram` is of other features or groups.
    """
    rows = as_matrices(change.astype(np.float64), gram.groups)
    if rows.shape[-1] != gram.total.shape[-1]:
        raise DataError(f"the moments are of {gram.total.shape[-1]} features, but the weight has {rows.shape[-1]}")
    errors = np.einsum("gof,gof->go", rows @ gram.total, rows) / max(gram.count, 1)
    return np.asarray(np.maximum(errors, 0.0).reshape(-1))
