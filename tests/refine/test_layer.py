from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits.errors import DataError
from fewbits.refine.layer import Layer, as_matrices, linear_inputs, patches


@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "dilations", "groups"),
    [
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ((3, 2), (2, 1), (0, 0, 0, 0), (1, 2), 2),
        ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
        ((3, 3), (2, 2), (1, 0, 1, 0), (2, 1), 4),  # depthwise, with two outputs for each channel
    ],
)
def test_patches_times_the_weight_is_the_convolution(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, ...],
    dilations: tuple[int, int],
    groups: int,
) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 4, 9, 10)), rng.normal(size=(8, 4 // groups, *kernel))
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x), torch.from_numpy(w), stride=strides, padding=pads[:2], dilation=dilations, groups=groups
    ).numpy()
    found = patches(x, kernel, strides=strides, pads=pads, dilations=dilations, groups=groups)
    y = found @ as_matrices(w, groups).transpose(0, 2, 1)
    by_channel = y.transpose(0, 2, 1).reshape(8, 3, *expected.shape[2:]).transpose(1, 0, 2, 3)
    np.testing.assert_allclose(by_channel, expected, atol=1e-12)


def test_pads_may_differ_at_both_ends() -> None:
    found = patches(np.ones((1, 1, 4)), (3,), pads=(2, 0))
    np.testing.assert_array_equal(found[0].sum(axis=1), [1, 2, 3, 3])


def test_inputs_of_a_linear_layer_of_any_rank_are_samples() -> None:
    assert linear_inputs(np.zeros((2, 5, 7))).shape == (1, 10, 7)


def test_shapes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(DataError, match="3 groups"):
        Layer(np.zeros((8, 4)), np.zeros(8), groups=3)
    with pytest.raises(DataError, match="bias"):
        Layer(np.zeros((8, 4)), np.zeros(4))
    with pytest.raises(DataError, match="3 groups"):
        patches(np.zeros((1, 4, 5)), (3,), groups=3)
    with pytest.raises(DataError, match="does not fit"):
        patches(np.zeros((1, 4, 5)), (3,), dilations=(3,))
    with pytest.raises(DataError, match="twice as many pads"):
        patches(np.zeros((1, 4, 5)), (3,), pads=(1,))
