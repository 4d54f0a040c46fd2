"""Weights out of .npz, .npy and .safetensors files, and every way in which such a file can be wrong."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from fewbits.data.weights import open_arrays
from fewbits.errors import DataError

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.ones((2, 2, 2), np.float16),
    "brain": np.array([1.5, -2.0]).astype(ml_dtypes.bfloat16),
    "wide": np.array(2.5),
    "steps": np.arange(3, dtype=np.int64),
    "none": np.zeros((0, 4), np.float32),
}


def save_npz(path: Path) -> None:
    np.savez(path, **{name: array for name, array in ARRAYS.items() if name != "brain"})


def save_compressed(path: Path) -> None:
    np.savez_compressed(path, **{name: array for name, array in ARRAYS.items() if name != "brain"})


def save_safetensors(path: Path) -> None:
    save_file(ARRAYS, path)


@pytest.mark.parametrize(
    ("name", "save"),
    [("w.npz", save_npz), ("c.npz", save_compressed), ("w.safetensors", save_safetensors), ("W.NPZ", save_npz)],
)
def test_what_was_saved_is_read(tmp_path: Path, name: str, save: Callable[[Path], None]) -> None:
    path = tmp_path / name
    save(path.with_suffix(path.suffix.lower()))
    path.with_suffix(path.suffix.lower()).rename(path)
    weights = open_arrays(path)
    assert len(weights.tensors) >= len(ARRAYS) - 1
    for tensor in weights.tensors:
        wanted = ARRAYS[tensor.name]
        assert (tensor.dtype, tensor.shape) == (wanted.dtype.name, wanted.shape)
        found = weights.read(tensor.name)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found.astype(np.float64), wanted.astype(np.float64))


@pytest.mark.parametrize("array", [np.ones((2, 3), np.float32), np.array(1.0), np.zeros(0, np.float32)])
def test_a_single_array_has_the_name_of_its_file(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "layer1.npy", array)
    weights = open_arrays(tmp_path / "layer1.npy")
    assert [tensor.name for tensor in weights.tensors] == ["layer1"]
    np.testing.assert_array_equal(weights.read("layer1"), array)


def test_types_that_numpy_lacks_are_named_and_need_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    parts = {"eight": ("F8_E4M3", 2, 2), "scales": ("F8_E8M0", 2, 2), "a": ("F32", 1, 4)}
    header, end = {}, 0
    for name, (dtype, count, size) in parts.items():
        header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    found = {tensor.name: tensor.dtype for tensor in open_arrays(path).tensors}
    assert found == {"eight": "float8_e4m3fn", "scales": "f8_e8m0", "a": "float32"}
    assert open_arrays(path).read("a").tolist() == [0.0]


def test_objects_are_named_but_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", objects=np.array([{"a": 1}], dtype=object))
    weights = open_arrays(tmp_path / "w.npz")
    assert weights.tensors[0].dtype == "object"
    with pytest.raises(DataError, match="objects"):
        weights.read("objects")


def missing(path: Path) -> None:
    del path


def folder(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("weights\n")


def empty(path: Path) -> None:
    path.touch()


def cut_off(path: Path) -> None:
    good = path.with_name(f"good{path.suffix}")
    {".npz": save_npz, ".safetensors": save_safetensors, ".npy": lambda p: np.save(p, np.ones(100))}[path.suffix](good)
    path.write_bytes(good.read_bytes()[:-40])


@pytest.mark.parametrize("name", ["w.npz", "w.npy", "w.safetensors"])
@pytest.mark.parametrize("spoil", [missing, folder, text, empty, cut_off])
def test_a_bad_file_is_a_data_error_that_names_it(tmp_path: Path, name: str, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / name
    spoil(path)

    def read_all() -> None:
        weights = open_arrays(path)
        for tensor in weights.tensors:
            weights.read(tensor.name)

    with pytest.raises(DataError, match=name):
        read_all()


def test_a_damaged_member_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez(path, a=np.ones(1000, np.float32))
    content = bytearray(path.read_bytes())
    content[600] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="'a' is damaged"):
        open_arrays(path).read("a")


def test_a_member_that_is_no_array_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", b"nothing of the kind")
    with pytest.raises(DataError, match="'a' is damaged"):
        open_arrays(tmp_path / "w.npz")


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w", "w.onnx"])
def test_other_files_are_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="save_file"):
        open_arrays(tmp_path / name)
