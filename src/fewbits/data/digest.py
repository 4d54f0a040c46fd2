"""A hash of arrays that is the same in every process and on every machine."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from fewbits.data.batches import Array


class Digest:
    """SHA-256 fed with array heads (name, type, shape) and array bytes."""

    def __init__(self) -> None:
        self._hash = sha256()

    def head(self, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
        """Feed what an array is."""
        self._hash.update(f"{name}\0{dtype.newbyteorder('<').str}\0{shape}\0".encode())

    def data(self, array: Array) -> None:
        """Feed an array's values in C order, little-endian."""
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        self._hash.update(plain.tobytes())

    @property
    def text(self) -> str:
        """64 hexadecimal digits."""
        return self._hash.hexdigest()
