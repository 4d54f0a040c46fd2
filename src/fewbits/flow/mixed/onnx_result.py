"""A converted ONNX model as a value that can be looked at, run and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fewbits.files import make_folder, write_file
from fewbits.flow.saving import save
from fewbits.models import proto_of
from fewbits.models.protocol import Artifact

if TYPE_CHECKING:
    from fewbits.models import ModelProto

FILE = "model.onnx"
_REPORT = "report.txt"


@dataclass(frozen=True)
class ConvertedOnnx:
    """A converted model, with texts (a plan, a report) by file name."""

    artifact: Artifact
    notes: Mapping[str, str]

    @cached_property
    def proto(self) -> ModelProto:
        """The model, weights included."""
        return proto_of(self.artifact)

    @property
    def report(self) -> str:
        """What there is to say about the conversion."""
        return self.notes.get(_REPORT, "")

    def save(self, path: str | Path) -> Path:
        """Write the model to `path`, whole or not at all: a file if the name ends in ``.onnx``, else a folder with
        ``model.onnx`` beside its plan and its report. Weights of large models are in a file beside the model's. Gives
        the path of the model.

        Raises StorageError if it cannot be written.
        """
        destination = Path(path)
        if destination.suffix == ".onnx":
            return save(self.artifact, destination)[-1]
        make_folder(destination)
        for name, text in self.notes.items():
            write_file(destination / name, text.encode())
        return save(self.artifact, destination / FILE)[-1]

    def __str__(self) -> str:
        return self.report
