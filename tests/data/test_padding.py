"""Models with a fixed batch dimension."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.data.batches import Arrays, Batch
from fewbits.data.padding import batch_size, for_any_batch, pad, trim
from fewbits.errors import DataError
from fewbits.graph import Tensor


def test_the_model_decides_where_it_fixes_the_batch() -> None:
    assert batch_size([Tensor("x", "float32", (8, 3)), Tensor("y", "float32", ("N", 3))], 32) == 8
    assert batch_size([Tensor("x", "float32", ("N", 3))], 32) == 32
    assert batch_size([Tensor("x", "float32", None)], 32) == 32


def test_inputs_that_disagree() -> None:
    with pytest.raises(DataError, match="'x' has 8, 'y' has 1"):
        batch_size([Tensor("x", "float32", (8, 3)), Tensor("y", "float32", (1, 3))], 32)


def test_pad_repeats_the_last_sample() -> None:
    padded = pad(Batch({"x": np.array([[1], [2]])}, np.array([5, 6])), 4)
    np.testing.assert_array_equal(padded.inputs["x"], [[1], [2], [2], [2]])
    np.testing.assert_array_equal(padded.labels, [5, 6, 6, 6])


def test_trim_cuts_rows_of_padding_and_keeps_what_has_no_samples() -> None:
    outputs = {"one": np.arange(4), "two": np.arange(8), "scalar": np.array(3.0), "other": np.arange(5)}
    trimmed = trim(outputs, 4, 3)
    assert [trimmed[name].shape for name in outputs] == [(3,), (6,), (), (5,)]


@given(size=st.integers(1, 7), samples=st.integers(1, 30))
def test_a_fixed_model_answers_any_number_of_samples(size: int, samples: int) -> None:
    def fixed(inputs: Arrays) -> Arrays:
        assert inputs["x"].shape[0] == size
        return {"double": inputs["x"] * 2, "rows": np.repeat(inputs["x"], 3, axis=0)}

    x = np.arange(samples, dtype=np.float32)
    outputs = for_any_batch(fixed, size)({"x": x})
    np.testing.assert_array_equal(outputs["double"], x * 2)
    np.testing.assert_array_equal(outputs["rows"], np.repeat(x, 3))
