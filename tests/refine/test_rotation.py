from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from fewbits.errors import DataError
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.text import parse
from fewbits.refine.rotation import Rotation, hadamard, hadamard_transform, largest_block

# 2**k, Paley's first construction (12, 20, 44, 140), his second (28, 36), and those times 2**k.
SIZES = (1, 2, 4, 64, 128, 512, 12, 20, 24, 28, 36, 40, 44, 56, 96, 140, 160, 768)


@pytest.mark.parametrize("size", SIZES)
def test_a_hadamard_matrix_is_orthogonal_up_to_its_size(size: int) -> None:
    matrix = hadamard(size).astype(np.int64)
    assert set(np.unique(matrix)) <= {-1, 1}
    np.testing.assert_array_equal(matrix @ matrix.T, size * np.eye(size, dtype=np.int64))


@pytest.mark.parametrize("size", [2, 64, 128])
def test_of_a_power_of_two_it_is_sylvester_s(size: int) -> None:
    np.testing.assert_array_equal(hadamard(size), linalg.hadamard(size))


@pytest.mark.parametrize("size", SIZES)
def test_the_fast_transform_is_the_product_with_the_matrix(size: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, size))
    matrix = hadamard(size) / np.sqrt(size)
    np.testing.assert_allclose(hadamard_transform(x), x @ matrix.T, atol=1e-12)
    np.testing.assert_allclose(hadamard_transform(x, transposed=True), x @ matrix, atol=1e-12)


@pytest.mark.parametrize("size", [3072, 5120, 14336])
def test_sizes_of_transformers_keep_length_and_angle(size: int) -> None:
    x = np.random.default_rng(0).normal(size=(4, size))
    y = hadamard_transform(x)
    np.testing.assert_allclose(y @ y.T, x @ x.T, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(("size", "block"), [(96, None), (172, 4), (384, 128)])
def test_a_rotated_pair_computes_the_same(size: int, block: int | None) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(10, size)).astype(np.float32), rng.normal(size=(size, 7)).astype(np.float32)
    rotation = Rotation.random(size, seed=1, block=block)
    y = rotation.apply(w) @ rotation.apply(x, axis=0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, w @ x, atol=1e-4)
    np.testing.assert_allclose(rotation.undo(rotation.apply(w)), w, atol=1e-5)


def test_the_layer_in_front_can_give_rotated_outputs() -> None:
    rng = np.random.default_rng(0)
    first, bias, second, x = rng.normal(size=(96, 5)), rng.normal(size=96), rng.normal(size=(3, 96)), rng.normal(size=5)
    rotation = Rotation.random(96, seed=1)
    hidden = rotation.apply(first, axis=0) @ x + rotation.apply(bias)
    np.testing.assert_allclose(rotation.apply(second) @ hidden, second @ (first @ x + bias), atol=1e-10)


def test_signs_follow_from_the_seed() -> None:
    np.testing.assert_array_equal(Rotation.random(96, 3).signs, Rotation.random(96, 3).signs)
    assert (Rotation.random(96, 3).signs != Rotation.random(96, 4).signs).any()


def test_an_outlier_is_spread_over_all_channels() -> None:
    """Incoherence: the largest of n rotated values is below ``sqrt(2 log(2 n**2)) / sqrt(n)`` times their length with
    high probability (QuIP#, lemma 3.1), while before it was the length."""
    x = np.zeros((64, 768))
    x[np.arange(64), np.random.default_rng(0).integers(0, 768, 64)] = 1
    x += 1e-3 * np.random.default_rng(1).normal(size=x.shape)
    rotated = Rotation.random(768, seed=0).apply(x)
    assert np.abs(rotated).max() < np.sqrt(2 * np.log(2 * 768**2) / 768)


def test_int8_with_one_scale_is_more_exact_behind_a_rotation() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 256)).astype(np.float32)
    x[:, :6] *= 30
    int8 = parse("int8r/tensor")
    rotation = Rotation.random(256, seed=0)
    plain = np.square(fake_quantize(x, int8) - x).mean()
    turned = np.square(rotation.undo(fake_quantize(rotation.apply(x), int8)) - x).mean()
    assert turned < plain / 10


@pytest.mark.parametrize("size", [3, 53, 172])
def test_a_size_without_a_matrix_is_refused_with_a_block_that_has_one(size: int) -> None:
    with pytest.raises(DataError, match=f"blocks, for example of {largest_block(size)}"):
        hadamard(size)


def test_the_largest_block_of_a_size() -> None:
    # 11008 = 43 * 2**8 is the width of Llama-2-7B; 172 = 4 * 43 has a matrix, but none of Paley's.
    assert {size: largest_block(size) for size in (3, 12, 11008, 768)} == {3: 1, 12: 12, 11008: 256, 768: 768}


def test_an_axis_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="size 8"):
        Rotation.random(8, 0).apply(np.zeros((3, 9)))
    with pytest.raises(DataError, match="do not divide"):
        Rotation.random(8, 0, block=3)
