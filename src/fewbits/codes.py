"""Codes of weights that were searched for: what rounding to nearest would not give, so a plan cannot say it in words.

A plan names them by their content (`Plan.codes`); they are kept in a file beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError, PlanError
from fewbits.formats.files import load_tensors
from fewbits.formats.qtensor import QTensor
from fewbits.formats.text import format_text

Codes = Mapping[str, QTensor[NDArray[Any]]]
"""Name → codes with their scales. In blocks: of the shape in which a product by a matrix is written, (depth, columns);
with a scale for each output: outputs first."""

FILE = "codes.safetensors"
"""The name of the file beside a plan."""


def name_of(codes: QTensor[NDArray[Any]]) -> str:
    """The same for equal codes, and for no others."""
    digest = hashlib.sha256(f"{format_text(codes.format)} {codes.shape}".encode())
    for array in (codes.codes, codes.scale, codes.zero_point):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def read_codes(path: Path) -> Codes:
    """The codes in the file at `path`. Raises PlanError if it is damaged, or somebody changed it."""
    try:
        found = load_tensors(path)
    except DataError as error:
        raise PlanError(f"the codes of the plan cannot be read: {error}") from error
    codes = {name: array for name, array in found.items() if isinstance(array, QTensor)}
    for name, array in codes.items():
        if name_of(array) != name:
            raise PlanError(f"{path}: the codes {name} are not what they were; copy the file from the run again")
    return codes


def beside(plan: Path) -> Codes:
    """The codes that lie beside the plan in the file `plan`, none if there are none. Raises PlanError."""
    path = plan.with_name(FILE)
    return read_codes(path) if path.is_file() else {}
