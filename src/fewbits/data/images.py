"""A folder of image files, decoded as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fewbits.data.batches import Array, Batch
from fewbits.data.digest import Digest
from fewbits.data.image_form import ImageForm
from fewbits.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageFile:
    """One image and the index of its class, ``None`` in a folder without classes."""

    path: Path
    label: int | None


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images as batches of one input. Memory holds one batch at a time.

    An image is scaled (bilinear) until it covers the wanted size and cropped in the middle.
    """

    files: tuple[ImageFile, ...]
    form: ImageForm
    classes: tuple[str, ...]

    @property
    def samples(self) -> int:
        """Number of images."""
        return len(self.files)

    @property
    def has_labels(self) -> bool:
        """Whether the folder has classes."""
        return bool(self.classes)

    @cached_property
    def labels(self) -> Array | None:
        """Class indices, shape (samples,), int64."""
        found = [file.label for file in self.files if file.label is not None]
        return np.array(found, dtype=np.int64) if self.classes else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the form, the classes, and the bytes of every file in order."""
        digest = Digest()
        digest.head(f"{self.form}{self.classes}", np.dtype(np.uint8), (self.samples,))
        for file in self.files:
            content = np.frombuffer(_content(file.path), dtype=np.uint8)
            digest.head(str(file.label), content.dtype, content.shape)
            digest.data(content)
        return digest.text

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, `size` per batch. Raises DataError, naming the file, if one cannot be decoded."""
        for start in range(0, self.samples, size):
            files = self.files[start : start + size]
            images = np.stack([self._decode(file.path) for file in files])
            labels = np.array([file.label for file in files], dtype=np.int64) if self.classes else None
            yield Batch({self.form.name: images}, labels)

    def take(self, indices: Sequence[int]) -> ImageDataset:
        """The images at `indices`, in that order."""
        return ImageDataset(tuple(self.files[index] for index in indices), self.form, self.classes)

    def _decode(self, path: Path) -> Array:
        try:
            with Image.open(path) as image:
                plain = image.convert("L" if self.form.channels == 1 else "RGB")
            fitted = ImageOps.fit(plain, (self.form.width, self.form.height), Image.Resampling.BILINEAR)
        except _BROKEN as error:
            raise DataError(f"the image {path} cannot be decoded: {error}") from error
        pixels = np.asarray(fitted, dtype=np.uint8).reshape(self.form.height, self.form.width, self.form.channels)
        return self.form.arrange(pixels)


def open_folder(folder: Path, form: ImageForm) -> ImageDataset:
    """The images under `folder`: classes are its sub-folders in sorted order, or there are none.

    The head of every file is read, so that a file that is no image is found before any work starts.
    Raises DataError on that, on an empty folder or class, and on images beside sub-folders.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    loose = _images(folder.glob("*"))
    grouped = {path.name: _images(path.rglob("*")) for path in folders}
    if not loose and not any(grouped.values()):
        raise DataError(f"there are no images in {folder}; expected {', '.join(sorted(SUFFIXES))}")
    if loose and folders:
        raise DataError(
            f"{folder} holds both images ({loose[0].name}) and sub-folders ({folders[0].name}); "
            "put every image into the sub-folder of its class, or none"
        )
    for name, paths in grouped.items():
        if not paths:
            raise DataError(f"there are no images in {folder / name}; each sub-folder is a class")
    labelled = [ImageFile(path, index) for index, paths in enumerate(grouped.values()) for path in paths]
    files = labelled or [ImageFile(path, None) for path in loose]
    for file in files:
        _check_head(file.path)
    return ImageDataset(tuple(files), form, tuple(grouped))


def _images(paths: Iterator[Path]) -> list[Path]:
    return sorted(
        path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _check_head(path: Path) -> None:
    try:
        with Image.open(path):
            pass
    except _BROKEN as error:
        raise DataError(f"{path} is not an image that can be read: {error}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the image {path} cannot be read: {error.strerror}") from error
