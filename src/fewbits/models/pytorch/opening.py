"""PyTorch models from what users have: modules, exported programs, and files of those."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from fewbits.errors import ModelError
from fewbits.models.pytorch.exporting import quiet
from fewbits.models.pytorch.given import on_device
from fewbits.models.pytorch.model import TorchModel


def opened(source: nn.Module | ExportedProgram | str | Path, items: Sequence[object], device: str = "") -> TorchModel:
    """`source` as a model on `device`, by default where it is; a module as it computes on batches such as `items`.
    Raises ModelError, DataError."""
    if isinstance(source, nn.Module):
        return TorchModel.of_items(on_device(source, device) if device else source, items)
    if isinstance(source, ExportedProgram):
        return TorchModel.of_program(_placed(source, device))
    return TorchModel.of_program(_placed(_read(Path(source)), device), Path(source))


def _placed(program: ExportedProgram, device: str) -> ExportedProgram:
    """`program` on `device`, itself where it is there."""
    tensors = (one for one in (*program.state_dict.values(), *program.constants.values()))
    places = {one.device.type for one in tensors if isinstance(one, torch.Tensor)}
    if not device or not places - {device}:
        return program
    stored = io.BytesIO()
    with quiet():
        # The pass changes what it is given, and a deep copy may call its inputs by other names.
        torch.export.save(program, stored)
        stored.seek(0)
        return move_to_device_pass(torch.export.load(stored), device)


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
