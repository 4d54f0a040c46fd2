from __future__ import annotations

import numpy as np
import pytest

from fewbits.errors import DataError
from fewbits.refine.gram import Gram, output_errors
from fewbits.refine.layer import as_matrices


def test_is_the_mean_squared_change_of_every_output() -> None:
    rng = np.random.default_rng(0)
    x, change = rng.normal(size=(2, 50, 6)), rng.normal(size=(8, 3, 2))
    y = x @ as_matrices(change, 2).transpose(0, 2, 1)
    np.testing.assert_allclose(output_errors(change, Gram.of(x)), np.square(y).mean(axis=1).reshape(-1))


def test_batches_add_up() -> None:
    x = np.random.default_rng(0).normal(size=(1, 50, 6))
    parts = Gram.empty(6).update(x[:, :7]).update(x[:, 7:])
    np.testing.assert_allclose(parts.mean, Gram.of(x).mean)
    assert parts.count == 50


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="6 features"):
        Gram.empty(6).update(np.zeros((1, 3, 5)))
    with pytest.raises(DataError, match="NaN"):
        Gram.empty(1).update(np.full((1, 3, 1), np.nan))
    with pytest.raises(DataError, match="6 features"):
        output_errors(np.zeros((4, 5)), Gram.empty(6))
