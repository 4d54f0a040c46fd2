"""Where weights lie that are not in one piece with their model: a temporary folder with one file for all of them.

ONNX in one piece ends at 2 GiB, and weights that a user keeps beside the model stay beside it. All that is made of one
model (converted forms, regions, the model with inner tensors as outputs) shares one file of weights, which only grows:
equal weights are written once, each as soon as it is made, so that none waits in memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir

from fewbits.errors import StorageError
from fewbits.models.onnx_pieces import DATA, Piece, aligned, chunks

LIMIT: Final = onnx.checker.MAXIMUM_PROTOBUF
"""Bytes of the largest model in one piece."""
SMALL: Final = 1 << 12
"""Constants of at most so many bytes stay in the model's own file: axes, shapes, scales."""
_SHARE: Final = 64
"""Of the limit, one in so many bytes is left for the graph."""
_KEY: Final = "fewbits.annex"


class Annex:
    """A temporary folder with the weights of what is made of one model. It is made when it is needed, and gone with the
    last that refers to it. A model of `limit` bytes or more has its weights here."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._folder: Path | None = None
        self._places: dict[object, int] = {}

    @property
    def folder(self) -> Path:
        """Raises StorageError if there is no place for one."""
        if self._folder is None:
            try:
                self._folder = Path(tempfile.mkdtemp(prefix="fewbits-")).resolve()
            except OSError as error:
                raise _sorry("make a temporary folder", error) from error
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def holds(self, weights: int) -> bool:
        """Whether a model with so many bytes of `weights` is too large for one piece."""
        return weights >= self.limit - self.limit // _SHARE

    def add(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """`tensor`, from now on here. Raises StorageError."""
        content = tensor.tobytes()
        key = hashlib.sha256(content).digest(), len(content)
        offset = self._append(key, len(content), lambda: iter((content,)))
        return external(self.folder / DATA, offset, len(content), tensor)

    def take(self, piece: Piece) -> int:
        """Where a copy of `piece` begins here; one that is here already stays where it is. Raises StorageError."""
        if piece.file == self.folder / DATA:
            return piece.offset
        return self._append(piece, piece.length, lambda: chunks((piece,)))

    def store(self, content: bytes) -> Path:
        """A file with the model in `content`, beside its weights. Raises StorageError."""
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:20]}.onnx"
        if not path.exists():
            try:
                path.write_bytes(content)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise _sorry(f"write {len(content):,} bytes to the temporary file {path}", error) from error
        return path

    def _append(self, key: object, length: int, made: Callable[[], Iterator[bytes]]) -> int:
        if key not in self._places:
            path = self.folder / DATA
            end = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.write(bytes(aligned(end) - end))
                    for part in made():
                        file.write(part)
            except OSError as error:
                if path.exists():
                    os.truncate(path, end)
                raise _sorry(f"write a weight of {length:,} bytes to the temporary file {path}", error) from error
            self._places[key] = aligned(end)
        return self._places[key]


def external(path: Path, offset: int, length: int, like: ir.TensorProtocol, name: str = "") -> ir.ExternalTensor:
    """The tensor of the `length` bytes at `offset` of the file at `path`, of the type and shape of `like`, called
    `name` or as that."""
    named = name or like.name or ""
    return ir.ExternalTensor(str(path), offset, length, like.dtype, shape=ir.Shape(like.shape.numpy()), name=named)


def attach(model: ir.Model, annex: Annex | None) -> ir.Model:
    """`model`, whose new weights are kept in `annex` from now on."""
    if annex is not None:
        model.meta[_KEY] = annex
    return model


def annex_of(model: ir.Model) -> Annex | None:
    """Where new weights of `model` are kept; nothing where they stay in memory."""
    found = model.meta.get(_KEY)
    return found if isinstance(found, Annex) else None


def _sorry(what: str, error: OSError) -> StorageError:
    return StorageError(
        f"could not {what}: {error.strerror or error}. Free some space there, or set TMPDIR to a place that has it"
    )
