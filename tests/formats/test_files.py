"""Files of quantised arrays: bit-exact round trips of every format, sizes, other readers, damage, and full disks."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fewbits.errors import DataError, StorageError
from fewbits.formats.catalog import CATALOGUE
from fewbits.formats.files import LAYOUT, load_tensors, save_tensors
from fewbits.formats.granularity import Shape
from fewbits.formats.numerics.packing import unpack
from fewbits.formats.numerics.reference import dequantize, quantize
from fewbits.formats.qtensor import QTensor
from fewbits.formats.text import format_text, parse

Array = NDArray[Any]

FORMATS = (
    *(name for name in CATALOGUE if name not in ("int16", "int8", "int8r", "uint8", "int4", "uint4", "int2")),
    *("e4m3fnftz", "ue4m3fn", "e7m0f", "e5m9", "int8f4", "uint6f2", "int16f8"),
    *("int8/tensor", "int8r/channel", "int4r/g3", "int2/g4", "int12/token", "int16/channel@-1", "uint8/tensor/sym"),
    *("uint8/tensor", "uint4/g3", "int5/channel/asym", "uint16/token", "uint13/g5", "uint8f3/g4"),
    *("fp8_e4m3/tensor", "fp8_e5m2/g3@0", "fp4_e2m1/channel", "fp8_e4m3fnuz/tile2x2", "tf32/g4"),
    *("mxfp8_e5m2-rceil/g3", "mxfp6_e3m2-even/g5", "mxint8-ceil/g4@0", "bfp5-rceil/tile2x3", "uint8/g4/pow2/sym"),
    *("nvfp4/tile2x2", "fp6_e2m3/g3/nested-bf16", "int4r/g4/nested-e3m2f"),
    *("binary/g4", "ternary/channel", "ternary-twn/g3", "ternary-rms/tensor", "nf4/g3", "codebook(-1,0,0.5)/g4"),
    *("kmeans1/g4", "kmeans3/tensor", "kmeans4/channel", "kmeans2"),
)


def numbers(shape: Shape, seed: int = 0, dtype: Any = np.float32) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, shape)).astype(dtype)


def assert_same(found: QTensor[Array] | Array, wanted: QTensor[Array] | Array) -> None:
    assert isinstance(found, QTensor) and isinstance(wanted, QTensor)
    assert (found.format, found.dtype) == (wanted.format, wanted.dtype)
    for name in ("codes", "scale", "zero_point", "tensor_scale", "table"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        assert one.tobytes() == np.asarray(other, order="C").tobytes(), name


def castable(text: str, shape: Shape, seed: int = 0) -> QTensor[Array]:
    format = parse(text)
    x = numbers(shape, seed)
    return quantize(np.abs(x) if text in ("e8m0", "ternary", "binary") else x, format)


class TestRoundTrip:
    @pytest.mark.parametrize("text", FORMATS)
    @pytest.mark.parametrize("shape", [(6, 7), (2, 3, 37)])
    def test_every_format_comes_back_bit_for_bit(self, text: str, shape: Shape, tmp_path: Path) -> None:
        q = castable(text, shape)
        save_tensors(tmp_path / "a.safetensors", {"w": q})
        (found,) = load_tensors(tmp_path / "a.safetensors").values()
        assert_same(found, q)
        assert isinstance(found, QTensor)
        np.testing.assert_array_equal(dequantize(found), dequantize(q))

    @pytest.mark.parametrize("text", FORMATS)
    def test_the_stored_bytes_are_those_that_the_array_says(self, text: str, tmp_path: Path) -> None:
        q = castable(text, (5, 23))
        save_tensors(tmp_path / "a.safetensors", {"w": q})
        assert sum(array.nbytes for array in load_file(tmp_path / "a.safetensors").values()) == q.nbytes

    @pytest.mark.parametrize("text", ["int8/tensor", "mxfp4/tensor", "nvfp4/tensor", "bf16", "kmeans2/tensor"])
    @pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (0, 5)])
    def test_arrays_without_axes_or_elements(self, text: str, shape: Shape, tmp_path: Path) -> None:
        q = castable(text, shape)
        save_tensors(tmp_path / "a.safetensors", {"w": q})
        assert_same(load_tensors(tmp_path / "a.safetensors")["w"], q)

    @settings(max_examples=30)
    @given(st.sampled_from(FORMATS), st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(0, 9))
    def test_whatever_the_shape(
        self, tmp_path_factory: pytest.TempPathFactory, text: str, shape: list[int], seed: int
    ) -> None:
        q = castable(text, tuple(shape), seed)
        path = tmp_path_factory.mktemp("files") / "a.safetensors"
        save_tensors(path, {"w": q})
        assert_same(load_tensors(path)["w"], q)

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    def test_the_type_of_what_was_quantised_is_kept(self, dtype: str, tmp_path: Path) -> None:
        q = quantize(numbers((4, 40), dtype=dtype), parse("mxfp4"))
        save_tensors(tmp_path / "a.safetensors", {"w": q})
        found = load_tensors(tmp_path / "a.safetensors")["w"]
        assert isinstance(found, QTensor) and found.dtype == dtype

    def test_special_codes_are_kept(self, tmp_path: Path) -> None:
        x = np.array([np.nan, -np.nan, -0.0, 0.0, np.inf, -np.inf, 1e-45], np.float32)
        for text in ("fp8_e5m2", "bf16", "fp32"):
            q = quantize(x, parse(text))
            save_tensors(tmp_path / "a.safetensors", {"w": q})
            assert_same(load_tensors(tmp_path / "a.safetensors")["w"], q)

    def test_many_arrays_of_both_kinds_side_by_side(self, tmp_path: Path) -> None:
        tensors: dict[str, QTensor[Array] | Array] = {
            "z": castable("nvfp4", (3, 40)),
            "bias": numbers((5,)),
            "layer.0.weight": castable("uint4/g8", (4, 16)),
            "steps": np.array(7, np.int64),
            "ünï/cödé": castable("ternary/channel", (3, 4)),
            "mask": np.array([[True, False]]),
            "z.bias": np.zeros((0, 3), np.float16),
        }
        save_tensors(tmp_path / "a.safetensors", tensors)
        found = load_tensors(tmp_path / "a.safetensors")
        assert list(found) == ["z", "layer.0.weight", "ünï/cödé", "bias", "mask", "steps", "z.bias"]
        for name, tensor in tensors.items():
            if isinstance(tensor, QTensor):
                assert_same(found[name], tensor)
            else:
                array = found[name]
                assert isinstance(array, np.ndarray)
                assert array.dtype == tensor.dtype and array.shape == tensor.shape
                np.testing.assert_array_equal(array, tensor)

    def test_memory_layout_and_byte_order_do_not_matter(self, tmp_path: Path) -> None:
        x = numbers((4, 6))
        save_tensors(tmp_path / "a.safetensors", {"f": np.asfortranarray(x), "s": x[:, ::2], "b": x.astype(">f4")})
        found = load_tensors(tmp_path / "a.safetensors")
        for name, wanted in (("f", x), ("s", x[:, ::2]), ("b", x)):
            np.testing.assert_array_equal(found[name], wanted)  # type: ignore[arg-type]

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        save_tensors(tmp_path / "a.safetensors", {})
        assert load_tensors(tmp_path / "a.safetensors") == {}

    def test_the_same_arrays_give_the_same_bytes(self, tmp_path: Path) -> None:
        tensors = {name: castable(text, (4, 40)) for name, text in (("b", "mxfp4"), ("a", "int8/tensor"))}
        for name in ("one", "two"):
            save_tensors(tmp_path / name, tensors)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


class TestSize:
    @pytest.mark.parametrize(("text", "bits"), [("nvfp4", 4.5), ("mxfp4", 4.25), ("int4r/g128", 4.25), ("fp6_e3m2", 6)])
    def test_a_matrix_takes_the_bits_of_its_format_and_a_header(self, text: str, bits: float, tmp_path: Path) -> None:
        x = numbers((512, 1024))
        save_tensors(tmp_path / "a.safetensors", {"w": quantize(x, parse(text))})
        header = (tmp_path / "a.safetensors").stat().st_size - x.size * bits / 8
        assert 0 < header < 1000

    def test_a_matrix_of_4096_by_4096_in_nvfp4(self, tmp_path: Path) -> None:
        """Codes and scales made by hand: what counts is how many there are."""
        codes = np.tile(np.arange(16, dtype=np.uint8), (4096, 256))
        scale = np.ones((4096, 256), np.float32)
        one, nothing = np.ones((), np.float32), np.zeros(0, np.float32)
        q = QTensor(codes, scale, np.zeros(scale.shape, np.int32), one, nothing, parse("nvfp4"), "float32")
        save_tensors(tmp_path / "a.safetensors", {"w": q})
        assert (tmp_path / "a.safetensors").stat().st_size == pytest.approx(4096 * 4096 * 4.5 / 8, abs=1000)


class TestOtherReaders:
    """What the documentation of the file says, read with safetensors alone."""

    def test_whole_bytes_keep_shape_and_type(self, tmp_path: Path) -> None:
        q = castable("uint8/channel", (4, 6))
        save_tensors(tmp_path / "a.safetensors", {"w": q})
        parts = load_file(tmp_path / "a.safetensors")
        assert sorted(parts) == ["w.codes", "w.scale", "w.zero_point"]
        codes, scale, zero_point = (parts[f"w.{part}"] for part in ("codes", "scale", "zero_point"))
        assert (codes.dtype, scale.dtype, zero_point.dtype) == (np.uint8, np.float32, np.uint8)
        assert codes.shape == (4, 6) and scale.shape == zero_point.shape == (4, 1)
        by_hand = (codes.astype(np.float32) - zero_point.astype(np.float32)) * scale
        np.testing.assert_array_equal(by_hand, dequantize(q))

    def test_mxfp4_as_its_standard_lays_it_out(self, tmp_path: Path) -> None:
        q = castable("mxfp4", (4, 64))
        save_tensors(tmp_path / "a.safetensors", {"w": q})
        parts = load_file(tmp_path / "a.safetensors")
        packed, exponents = parts["w.codes"], parts["w.scale"]
        assert packed.shape == (4 * 64 // 2,) and packed.dtype == exponents.dtype == np.uint8
        assert exponents.shape == (4, 2)
        elements = unpack(packed, 4, 256, np.uint8).astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
        scales = exponents.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
        by_hand = elements.reshape(4, 2, 32) * scales[:, :, None]
        np.testing.assert_array_equal(by_hand.reshape(4, 64), dequantize(q))

    def test_nvfp4_scales_are_bytes_of_fp8(self, tmp_path: Path) -> None:
        q = castable("nvfp4", (4, 64))
        save_tensors(tmp_path / "a.safetensors", {"w": q})
        parts = load_file(tmp_path / "a.safetensors")
        assert parts["w.tensor_scale"].shape == ()
        assert parts["w.scale"].dtype == np.uint8 and parts["w.scale"].shape == (4, 4)
        np.testing.assert_array_equal(parts["w.scale"].view(ml_dtypes.float8_e4m3fn).astype(np.float32), q.scale)

    def test_the_metadata_is_one_json_text(self, tmp_path: Path) -> None:
        save_tensors(tmp_path / "a.safetensors", {"w": castable("kmeans2/g4", (3, 8)), "bias": numbers((3,))})
        with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
            metadata = file.metadata()
            assert sorted(file.keys()) == ["bias", "w.codes", "w.scale", "w.table"]
        assert json.loads(metadata["fewbits"]) == {
            "layout": LAYOUT,
            "arrays": {"w": {"format": "kmeans2/g4", "shape": [3, 8], "dtype": "float32"}},
        }


class TestNotSaved:
    @pytest.mark.parametrize("array", [np.zeros(2, np.complex128), np.zeros(2, ml_dtypes.bfloat16), np.array(["a"])])
    def test_types_that_a_file_cannot_hold(self, array: Array, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=f"w is an array of {array.dtype}; a file holds"):
            save_tensors(tmp_path / "a.safetensors", {"w": array})
        assert not list(tmp_path.iterdir())

    def test_what_is_no_array(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="w is list; a file holds"):
            save_tensors(tmp_path / "a.safetensors", {"w": [1.0]})  # type: ignore[dict-item]

    @pytest.mark.parametrize("name", ["", "__metadata__"])
    def test_names_that_safetensors_lacks(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="cannot be the name"):
            save_tensors(tmp_path / "a.safetensors", {name: numbers((2,))})

    def test_names_that_collide(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"w\.scale would be in the file twice"):
            save_tensors(tmp_path / "a.safetensors", {"w": castable("int8/tensor", (3,)), "w.scale": numbers((3,))})

    @pytest.mark.parametrize(
        ("text", "changes", "message"),
        [
            ("mxfp4", {"scale": np.float32(0.3)}, "scales are stored as e8m0"),
            ("nvfp4", {"scale": np.float32(0.3)}, "scales are stored as fp8_e4m3"),
            ("uint8/tensor", {"zero_point": np.int32(300)}, "zero point of uint8/tensor is one of its codes"),
            ("int8/tensor", {"zero_point": np.int32(3)}, "zero point of int8/tensor is always 0"),
            ("uint8/tensor/sym", {"zero_point": np.int32(0)}, "zero point of uint8/tensor/sym is always 128"),
            ("int8/tensor", {"tensor_scale": np.float32(2)}, "tensor scale of int8/tensor is always 1"),
            ("bf16", {"scale": np.float32(2)}, "scale of bf16 is always 1"),
            ("fp4_e2m1", {"codes": np.uint8(16)}, "the code 16 does not fit 4 bits"),
            ("int8/tensor", {"codes": np.int32(1)}, "codes of int8 are int8, not int32"),
        ],
    )
    def test_parts_that_their_format_does_not_have(
        self, text: str, changes: dict[str, np.generic], message: str, tmp_path: Path
    ) -> None:
        q = castable(text, (2, 32))
        parts = {name: getattr(q, name) for name in ("codes", "scale", "zero_point", "tensor_scale", "table")}
        for name, value in changes.items():
            parts[name] = np.full(parts[name].shape, value)
        with pytest.raises(DataError, match=message):
            save_tensors(tmp_path / "a.safetensors", {"w": QTensor(**parts, format=q.format, dtype="float32")})
        assert not list(tmp_path.iterdir())


class TestWritten:
    def test_whole_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.safetensors"
        save_tensors(path, {"w": castable("mxfp4", (2, 32))})
        before = path.read_bytes()

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("fewbits.formats.files.save_file", full)
        with pytest.raises(
            StorageError, match=r"could not write .*No space left.*Nothing that was there before was lost"
        ):
            save_tensors(path, {"w": castable("int8/tensor", (2, 32))})
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]

    def test_over_an_older_file_and_with_its_usual_permissions(self, tmp_path: Path) -> None:
        path, usual = tmp_path / "a.safetensors", tmp_path / "usual"
        usual.touch()
        save_tensors(path, {"w": castable("mxfp4", (2, 32))})
        save_tensors(str(path), {"v": castable("int8/tensor", (3,))})
        assert list(load_tensors(path)) == ["v"]
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
        usual.unlink()
        assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]

    def test_into_a_folder_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="No such file or directory"):
            save_tensors(tmp_path / "missing" / "a.safetensors", {"w": numbers((3,))})

    def test_never_over_a_folder_or_a_device(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "folder").mkdir()
        for name in ("pipe", "folder"):
            with pytest.raises(StorageError, match="it is a folder or a device"):
                save_tensors(tmp_path / name, {"w": numbers((3,))})
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "pipe"]


def rewritten(path: Path, contents: object = None, **changes: Array | None) -> Path:
    """The file with other tensors (None: without) or other metadata, as another program would write it."""
    parts = load_file(path)
    for name, array in changes.items():
        key = name.replace("__", ".")
        parts.pop(key, None)
        if array is not None:
            parts[key] = array
    if contents is None:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
    else:
        metadata = {"fewbits": contents if isinstance(contents, str) else json.dumps(contents)}
    save_file(parts, path, metadata=metadata)
    return path


def entry(**changes: object) -> dict[str, object]:
    described = {"format": "mxfp4", "shape": [2, 64], "dtype": "float32", **changes}
    return {"layout": LAYOUT, "arrays": {"w": described}}


class TestNotLoaded:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        save_tensors(tmp_path / "a.safetensors", {"w": castable("mxfp4", (2, 64))})
        return tmp_path / "a.safetensors"

    def test_the_tests_below_begin_with_a_good_file(self, path: Path) -> None:
        assert format_text(parse("mxfp4")) == "mxfp4"
        assert_same(load_tensors(rewritten(path, entry()))["w"], castable("mxfp4", (2, 64)))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no file"):
            load_tensors(tmp_path / "a.safetensors")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="cannot be read as a safetensors file"):
            load_tensors(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"\0" * 8, b"PK\x03\x04" + b"x" * 100, b'{"a": 1}' * 20])
    def test_files_of_another_kind(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError, match="a cannot be read as a safetensors file"):
            load_tensors(tmp_path / "a")

    def test_a_file_cut_anywhere(self, path: Path) -> None:
        content = path.read_bytes()
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            with pytest.raises(DataError, match="cannot be read as a safetensors file"):
                load_tensors(path)

    def test_safetensors_of_others(self, tmp_path: Path) -> None:
        foreign = {"w": np.zeros(3, ml_dtypes.float8_e4m3fn)}  # which numpy cannot even read
        for metadata in (None, {"format": "pt"}):
            save_file(foreign, tmp_path / "a", metadata=metadata)
            with pytest.raises(DataError, match="fewbits did not write it"):
                load_tensors(tmp_path / "a")

    def test_a_later_layout(self, path: Path) -> None:
        later = {"layout": LAYOUT + 1, "arrays": [], "more": 1}
        with pytest.raises(DataError, match=rf"layout {LAYOUT + 1}, .* up to {LAYOUT}.*Update fewbits"):
            load_tensors(rewritten(path, later))

    @pytest.mark.parametrize(
        "contents",
        [
            *("", "[]", "{}", '{"layout": "one"}', '{"layout": 1}', '{"layout": 1, "arrays": {"w": 3}}'),
            *(entry(more=1), entry(shape=[-1, 2]), entry(shape="12"), entry(format=4), {**entry(), "more": 1}),
        ],
    )
    def test_metadata_that_describes_nothing(self, path: Path, contents: object) -> None:
        with pytest.raises(DataError, match="its metadata does not describe quantised arrays; "):
            load_tensors(rewritten(path, contents))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": "mxfp5"}, "'mxfp5' is not a number format"),
            ({"format": "int8/channel@7"}, "needs axis 7"),
            ({"format": "mxfp8_e4m3"}, r"w\.codes should be uint8 of shape \[2, 64\], but is uint8 of shape \[64\]"),
            ({"format": "int4/g32"}, r"w\.scale should be float32 of shape \[2, 2\], but is uint8"),
            ({"format": "nvfp4/g32"}, r"w\.tensor_scale is missing"),
            ({"shape": [2, 66]}, r"w\.codes should be uint8 of shape \[66\], but is uint8 of shape \[64\]"),
            ({"shape": [1, 128]}, r"w\.scale should be uint8 of shape \[1, 4\]"),
            ({"shape": [0, 1 << 60, 1 << 60]}, "no array has shape"),
        ],
    )
    def test_metadata_that_does_not_go_with_the_tensors(
        self, path: Path, changes: dict[str, object], message: str
    ) -> None:
        with pytest.raises(DataError, match=f"a.safetensors, w: .*{message}"):
            load_tensors(rewritten(path, entry(**changes)))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"w__codes": None}, r"w\.codes is missing"),
            ({"w__scale": None}, r"w\.scale is missing"),
            ({"w__codes": np.zeros(63, np.uint8)}, r"w\.codes should be uint8 of shape \[64\]"),
            ({"w__codes": np.zeros(64, np.int8)}, r"w\.codes should be uint8 .*but is int8"),
            ({"w__scale": np.zeros((2, 3), np.uint8)}, r"w\.scale should be uint8 of shape \[2, 2\]"),
        ],
    )
    def test_tensors_that_are_missing_or_changed(
        self, path: Path, changes: dict[str, Array | None], message: str
    ) -> None:
        with pytest.raises(DataError, match=f"{message}.*the file is damaged, or was changed"):
            load_tensors(rewritten(path, **changes))
