"""The sources of the running Python's standard library as bytes, in parts for training and for measuring."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_ROOT = Path(sysconfig.get_paths()["stdlib"])
_SKIPPED = frozenset({"test", "tests", "lib2to3", "turtledemo", "site-packages", "dist-packages", "__pycache__"})
_BUCKETS = 32


class Part(Enum):
    """What a piece of text is for; the value is the first of its hash buckets, out of 32."""

    HELD_OUT = 0
    CALIBRATION = 2
    EVALUATION = 4
    TRAINING = 12


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of one file, and the part of the data that all of them belong to."""

    text: Bytes
    part: Part


def files(folder: str = "") -> list[Path]:
    """The sources under `folder` of the standard library, tests left out, in path order. Stops if there are none."""
    found = [
        path
        for path in sorted((_ROOT / folder).rglob("*.py"))
        if _SKIPPED.isdisjoint(path.relative_to(_ROOT).parts) and path.stat().st_size
    ]
    if not found:
        raise SystemExit(f"{_ROOT / folder} holds no Python sources: install the whole standard library")
    return found


def pieces(paths: list[Path], length: int) -> list[Piece]:
    """The files cut into pieces of `length` bytes, shorter last ones dropped.

    The hash of a piece says where it belongs, so that parts share no text, not even what several files repeat
    at the same place.
    """
    found = []
    for path in paths:
        text = np.frombuffer(path.read_bytes(), np.uint8)
        found += [piece(text[start : start + length]) for start in range(0, len(text) - length + 1, length)]
    return found


def piece(text: Bytes) -> Piece:
    """`text` with its part: 2, 2, 8 and 20 of 32 go to held-out, calibration, evaluation and training."""
    bucket = hashlib.sha256(text.tobytes()).digest()[0] % _BUCKETS
    return Piece(text, max((part for part in Part if part.value <= bucket), key=lambda part: part.value))
