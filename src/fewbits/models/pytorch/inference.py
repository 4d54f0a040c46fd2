"""What modules that conversion makes have in common: they are for inference, carry texts about themselves, and are
saved with them."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import torch
from torch import nn

from fewbits.files import make_folder, write_file

MODULE: Final = "model.pt"
REPORT: Final = "report.txt"
_SUFFIXES: Final = (".pt", ".pth", ".bin")


class Inference(nn.Module):
    """A module without training mode. `notes` are texts (a plan, a report) by file name."""

    notes: Mapping[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.notes = {}

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode. Raises ValueError if training is asked for."""
        if mode:
            raise ValueError("a converted model is for inference; train the original and convert it again")
        return super().train(False)

    def with_notes(self, notes: Mapping[str, str]) -> Self:
        """The same module, with other notes."""
        found = copy.copy(self)
        found.notes = dict(notes)
        return found

    @property
    def report(self) -> str:
        """What there is to say about the conversion, "" if nothing was kept."""
        return self.notes.get(REPORT, "")

    def save(self, path: str | Path) -> Path:
        """Write the module to `path`, whole or not at all: a file if the name ends in ``.pt``, ``.pth`` or ``.bin``,
        else a folder with the module in ``model.pt`` beside its notes. `fewbits.open_module` reads both. Gives the path
        of the module.

        Raises StorageError if it cannot be written.
        """
        destination = Path(path)
        stream = io.BytesIO()
        torch.save(self, stream)
        if destination.suffix in _SUFFIXES:
            write_file(destination, stream.getvalue())
            return destination
        make_folder(destination)
        for name, text in self.notes.items():
            write_file(destination / name, text.encode())
        write_file(destination / MODULE, stream.getvalue())
        return destination / MODULE
