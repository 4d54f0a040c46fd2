"""A converted ONNX model as a value that can be looked at, run and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from fewbits.files import make_folder, write_file

FILE = "model.onnx"
_REPORT = "report.txt"


@dataclass(frozen=True)
class ConvertedOnnx:
    """The bytes of a converted model, with texts (a plan, a report) by file name."""

    content: bytes
    notes: Mapping[str, str]

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model."""
        return onnx.load_model_from_string(self.content)

    @property
    def report(self) -> str:
        """What there is to say about the conversion."""
        return self.notes.get(_REPORT, "")

    def save(self, path: str | Path) -> Path:
        """Write the model to `path`, whole or not at all: a file if the name ends in ``.onnx``, else a folder with
        ``model.onnx`` beside its plan and its report. Gives the path of the model.

        Raises StorageError if it cannot be written.
        """
        destination = Path(path)
        if destination.suffix == ".onnx":
            write_file(destination, self.content)
            return destination
        make_folder(destination)
        for name, text in self.notes.items():
            write_file(destination / name, text.encode())
        write_file(destination / FILE, self.content)
        return destination / FILE

    def __str__(self) -> str:
        return self.report
