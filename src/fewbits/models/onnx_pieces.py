"""Weights in other files than their model's: which bytes of which file, read a little at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.errors import ModelError

DATA: Final = "weights.data"
_ALIGNMENT: Final = 64
_CHUNK: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes from `offset` of `file` on."""

    file: Path
    offset: int
    length: int


def aligned(offset: int) -> int:
    """The first place at or behind `offset` where a weight may begin: runtimes map it as it lies."""
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def layout(lengths: Sequence[int]) -> tuple[list[int], int]:
    """Where weights of `lengths` bytes begin that lie one behind the other, and where the last one ends."""
    offsets, end = [], 0
    for length in lengths:
        offsets.append(aligned(end))
        end = offsets[-1] + length
    return offsets, end


def chunks(pieces: Iterable[Piece], *, apart: bool = False) -> Iterator[bytes]:
    """The bytes of `pieces`, one behind the other, `apart` as `layout` places them. Raises ModelError if one is not
    there any more."""
    end = 0
    for piece in pieces:
        if apart:
            yield bytes(aligned(end) - end)
            end = aligned(end) + piece.length
        yield from _parts(piece)


def _parts(piece: Piece) -> Iterator[bytes]:
    try:
        with piece.file.open("rb") as file:
            file.seek(piece.offset)
            left = piece.length
            while left:
                part = file.read(min(left, _CHUNK))
                if not part:
                    raise _changed(piece.file, "is shorter")
                left -= len(part)
                yield part
    except FileNotFoundError as error:
        raise _changed(piece.file, "is gone") from error


def array(tensor: ir.TensorProtocol) -> Array:
    """The values of `tensor`. Those in a file are mapped for as long as the array is held, and not before or longer, so
    that they take no memory of their own. Raises ModelError if the file is not there any more."""
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype.bitwidth < 8 or not tensor.size:
        return np.asarray(tensor.numpy())
    path = Path(tensor.path)
    try:
        mapped = np.memmap(path, tensor.dtype.numpy(), "r", tensor.offset or 0, (int(tensor.size),))
    except FileNotFoundError as error:
        raise _changed(path, "is gone") from error
    except ValueError as error:
        raise _changed(path, "is shorter") from error
    return np.asarray(mapped).reshape(tensor.shape.numpy())


def _changed(file: Path, how: str) -> ModelError:
    return ModelError(
        f"{file} holds weights of the model and {how} since the model was opened; put it back, and leave it alone "
        "while the model is in use"
    )
