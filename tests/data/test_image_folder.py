"""Folders of images: classes, preprocessing, and files that are no images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewbits.data import ImageOptions, Layout, open_data
from fewbits.data.batches import concatenate
from fewbits.errors import DataError
from fewbits.graph import Tensor

NCHW = Tensor("image", "float32", ("N", 3, 4, 6))
NHWC = Tensor("image", "float32", ("N", 4, 6, 3))
FREE = Tensor("image", "float32", ("N", 3, "h", "w"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class b has a red image, class a a green and a blue one; each 6 wide and 4 high."""
    for name, colour in (("b/red.png", (255, 0, 0)), ("a/y.png", (0, 255, 0)), ("a/deep/z.bmp", (0, 0, 255))):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), colour).save(path)
    (tmp_path / "images" / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "images" / ".hidden").mkdir()
    return tmp_path / "images"


def test_classes_are_sorted_sub_folders(folder: Path) -> None:
    data = open_data(folder, [NCHW])
    assert data.samples == 3
    batch = concatenate(data.batches(2))
    np.testing.assert_array_equal(batch.labels, [0, 0, 1])
    assert batch.inputs["image"].shape == (3, 3, 4, 6)
    # deep/z.bmp (blue) sorts before y.png (green); red is class b.
    np.testing.assert_array_equal(batch.inputs["image"].mean(axis=(2, 3)), [[0, 0, 1], [0, 1, 0], [1, 0, 0]])


def test_layout_follows_the_model(folder: Path) -> None:
    first = concatenate(open_data(folder, [NCHW]).batches(8)).inputs["image"]
    last = concatenate(open_data(folder, [NHWC]).batches(8)).inputs["image"]
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))


def test_mean_and_std_are_applied_after_scaling_to_one(folder: Path) -> None:
    options = ImageOptions(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    red = concatenate(open_data(folder, [NCHW], images=options).take([2]).batches(1)).inputs["image"]
    np.testing.assert_allclose(red[0, :, 0, 0], [1.0, -1.0, 0.0])


def test_integer_inputs_get_raw_pixels(folder: Path) -> None:
    raw = Tensor("image", "uint8", (1, 4, 6, 3))
    images = concatenate(open_data(folder, [raw]).batches(8)).inputs["image"]
    assert images.dtype == np.uint8
    assert images.max() == 255
    with pytest.raises(DataError, match="raw pixels"):
        open_data(folder, [raw], images=ImageOptions(mean=(0.5,)))


def test_one_channel_is_grey(folder: Path) -> None:
    grey = concatenate(open_data(folder, [Tensor("image", "float32", ("N", 1, 4, 6))]).batches(8)).inputs["image"]
    assert grey.shape == (3, 1, 4, 6)
    # ITU-R 601 luma, as Pillow defines it.
    np.testing.assert_allclose(grey[:, 0, 0, 0], [29 / 255, 150 / 255, 76 / 255], atol=1 / 255)


def test_images_are_covered_and_cropped_in_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "x.png")
    data = open_data(tmp_path, [FREE], images=ImageOptions(size=(4, 4)))
    np.testing.assert_array_equal(concatenate(data.batches(1)).inputs["image"], np.ones((1, 3, 4, 4)))


def test_a_flat_folder_has_no_labels(folder: Path) -> None:
    data = open_data(folder / "b", [NCHW])
    assert data.samples == 1
    assert not data.has_labels
    assert next(data.batches(1)).labels is None


def test_the_digest_follows_bytes_options_and_part(folder: Path) -> None:
    data = open_data(folder, [NCHW])
    assert data.digest == open_data(folder, [NCHW]).digest
    assert data.digest != open_data(folder, [NCHW], images=ImageOptions(mean=(0.5,))).digest
    assert data.digest != data.take([0, 1]).digest
    before = data.digest
    Image.new("RGB", (6, 4), (1, 2, 3)).save(folder / "b" / "red.png")
    assert open_data(folder, [NCHW]).digest != before


def test_files_are_decoded_as_they_are_read(folder: Path) -> None:
    data = open_data(folder, [NCHW])
    path = folder / "b" / "red.png"
    # The head (33 bytes) is whole, the pixels are not.
    path.write_bytes(path.read_bytes()[:45])
    assert next(data.batches(2)).samples == 2
    with pytest.raises(DataError, match=r"red\.png cannot be decoded"):
        list(data.batches(2))


def test_a_file_that_is_no_image_is_found_at_once(folder: Path) -> None:
    (folder / "a" / "bad.png").write_text("hello")
    with pytest.raises(DataError, match=r"bad\.png is not an image"):
        open_data(folder, [NCHW])


def test_empty_folder_and_empty_class(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in .*empty; expected .*\.jpg"):
        open_data(tmp_path / "empty", [NCHW])
    (folder / "c").mkdir()
    with pytest.raises(DataError, match=r"no images in .*c; each sub-folder is a class"):
        open_data(folder, [NCHW])


def test_images_beside_classes(folder: Path) -> None:
    Image.new("RGB", (6, 4)).save(folder / "loose.png")
    with pytest.raises(DataError, match=r"both images \(loose\.png\) and sub-folders \(a\)"):
        open_data(folder, [NCHW])


def test_models_that_read_no_single_image(folder: Path) -> None:
    with pytest.raises(DataError, match="one input; this one reads 'image', 'ids'"):
        open_data(folder, [NCHW, Tensor("ids", "int64", ("N",))])
    with pytest.raises(DataError, match="is not an image"):
        open_data(folder, [Tensor("x", "float32", ("N", 3))])
    with pytest.raises(DataError, match="is not an image"):
        open_data(folder, [Tensor("x", "bool", ("N", 3, 4, 6))])
    with pytest.raises(DataError, match=r"5 channels .*1 \(grey\) or 3 \(RGB\)"):
        open_data(folder, [Tensor("x", "float32", ("N", 5, 4, 6))], images=ImageOptions(layout=Layout.NCHW))


def test_open_size_and_open_layout(folder: Path) -> None:
    with pytest.raises(DataError, match="leaves the image size open; give --image-size"):
        open_data(folder, [FREE])
    unclear = Tensor("image", "float32", ("N", "c", "h", "w"))
    with pytest.raises(DataError, match="cannot be told from its shape"):
        open_data(folder, [unclear], images=ImageOptions(size=(4, 6)))
    told = open_data(folder, [unclear], images=ImageOptions(size=(4, 6), layout=Layout.NHWC))
    assert next(told.batches(2)).inputs["image"].shape == (2, 4, 6, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImageOptions(size=(5, 6)), "does not fit"),
        (ImageOptions(size=(0, 6)), "at least 1 pixel"),
        (ImageOptions(mean=(0.1, 0.2)), "mean has 2 values"),
        (ImageOptions(std=(0.0,)), "above 0"),
        (ImageOptions(std=(float("nan"),)), "finite"),
    ],
)
def test_options_that_do_not_fit(folder: Path, options: ImageOptions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(folder, [NCHW], images=options)


def test_without_pillow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fewbits.data.images", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install fewbits\[images\]"):
        open_data(folder, [NCHW])
