"""PyTorch models from what users have: modules, exported programs, and files of those."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import nn
from torch.export import ExportedProgram

from fewbits.errors import ModelError
from fewbits.models.pytorch.exporting import quiet
from fewbits.models.pytorch.model import TorchModel


def opened(source: nn.Module | ExportedProgram | str | Path, items: Sequence[object]) -> TorchModel:
    """`source` as a model; a module as it computes on batches such as `items`. Raises ModelError, DataError."""
    if isinstance(source, nn.Module):
        return TorchModel.of_items(source, items)
    if isinstance(source, ExportedProgram):
        return TorchModel.of_program(source)
    return TorchModel.of_program(_read(Path(source)), Path(source))


def _read(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise ModelError(f"there is no file {path}; give what torch.export.save wrote")
    try:
        with quiet():
            return torch.export.load(path)
    # What torch raises depends on which part of the archive is damaged or of another version.
    except (RuntimeError, ValueError, OSError, KeyError, AssertionError, BadZipFile, pickle.UnpicklingError) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{path} holds no exported program ({said[:200]}); give what torch.export.save wrote"
        ) from error
