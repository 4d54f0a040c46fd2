"""What conversion gives back, and what a PyTorch target opens: a module that is called like the original."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

import torch
from torch import fx, nn

from fewbits.errors import ModelError
from fewbits.files import make_folder, write_file
from fewbits.graph import Tensor
from fewbits.models.protocol import TORCH, Artifact
from fewbits.models.pytorch.call_form import CallForm

MODULE: Final = "model.pt"
REPORT: Final = "report.txt"
SUFFIXES: Final = (".pt", ".pth", ".bin")


@dataclass(frozen=True, slots=True)
class Label:
    """What a call stands for: `name` is a node of the model, or a tensor and what is done to it. A module that computes
    at low precision has a `kernel` and what it multiplies in."""

    name: str
    kernel: str = ""
    precision: str = ""


class Converted(nn.Module):
    """A converted model. It takes and gives what the original does; `schemes` says how its groups compute, `labels`
    what each of its calls, in order, stands for; `reads` describes its flat inputs.

    ``state_dict``, ``torch.save``, ``copy.deepcopy`` and ``torch.compile`` work as with any module. It is for
    inference: its parameters do not require gradients, and there is no training mode.
    """

    notes: Mapping[str, str]

    def __init__(
        self,
        module: fx.GraphModule,
        call: CallForm,
        schemes: Mapping[str, str],
        labels: Sequence[Label],
        reads: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        self.graph_module = module
        self.call = call
        self.schemes = dict(schemes)
        self.labels = tuple(labels)
        self.reads = tuple(reads)
        self.notes = {}
        super().train(False)

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the original gives. Raises DataError for arguments of another form."""
        found = self.graph_module(*self.call.flat(args, kwargs))
        return self.call.structured(found)

    def train(self, mode: bool = True) -> Converted:
        """Stay in evaluation mode. Raises ValueError if training is asked for."""
        if mode:
            raise ValueError("a converted model is for inference; train the original and convert it again")
        super().train(False)
        return self

    def with_notes(self, notes: Mapping[str, str]) -> Converted:
        """The same module, with texts (a plan, a report) that are saved with it, by file name."""
        found = copy.copy(self)
        found.notes = dict(notes)
        return found

    @property
    def report(self) -> str:
        """What there is to say about the conversion, "" if nothing was kept."""
        return self.notes.get(REPORT, "")

    def save(self, path: str | Path) -> Path:
        """Write the module to `path`, whole or not at all: a file if the name ends in ``.pt``, else a folder with the
        module in ``model.pt`` beside its plan and its report. `load` reads both. Gives the path of the module.

        Raises StorageError if it cannot be written.
        """
        return save_module(self, path, self.notes)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every tensor that is given back, in order."""
        return self.call.names

    @property
    def graph(self) -> fx.Graph:
        """The calls, casts included."""
        return self.graph_module.graph

    def __repr__(self) -> str:
        """A line per group that left fp32."""
        rows = [f"  ({name}): {scheme}" for name, scheme in self.schemes.items() if scheme != "fp32"]
        kept = len(self.schemes) - len(rows)
        return "\n".join(["Converted(", *rows, *([f"  {kept} more groups: fp32"] if kept else []), ")"])


def save_module(module: nn.Module, path: str | Path, notes: Mapping[str, str]) -> Path:
    """See `Converted.save`."""
    destination = Path(path)
    stream = io.BytesIO()
    torch.save(module, stream)
    if destination.suffix in SUFFIXES:
        write_file(destination, stream.getvalue())
        return destination
    make_folder(destination)
    for name, text in notes.items():
        write_file(destination / name, text.encode())
    write_file(destination / MODULE, stream.getvalue())
    return destination / MODULE


def load(path: str | Path, device: str = "cpu") -> nn.Module:
    """The module that `save_module` wrote to `path`, a file or a folder. It holds code: load only what you trust, as
    with ``torch.load``. Raises ModelError if there is none."""
    place = Path(path)
    file = place / MODULE if place.is_dir() else place
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
    return _unpickled(content, device)


def size_of(module: nn.Module) -> int:
    """Bytes of the parameters and buffers of `module`; what is shared counts once."""
    tensors: dict[int, torch.Tensor] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        tensors[tensor.data_ptr() if tensor.numel() else id(tensor)] = tensor
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def artifact(module: Converted) -> Artifact:
    """`module` as bytes that `opened` reads."""
    stream = io.BytesIO()
    torch.save(module, stream)
    return Artifact(stream.getvalue(), suffix=TORCH)


def opened(content: bytes, device: str = "cpu") -> Converted:
    """The module of an artifact, on `device`. It holds code: open only what you trust, as with ``torch.load``.

    Raises ModelError if it is none.
    """
    found = _unpickled(content, device)
    if not isinstance(found, Converted):
        raise ModelError(f"not a converted PyTorch model, but {type(found).__name__}; give the file that save() wrote")
    return found


def _unpickled(content: bytes, device: str) -> nn.Module:
    try:
        found = torch.load(io.BytesIO(content), map_location=device, weights_only=False)
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError, UnpicklingError) as error:
        raise ModelError(f"not a converted PyTorch model: {error}") from error
    if not isinstance(found, nn.Module):
        raise ModelError(f"not a PyTorch module, but {type(found).__name__}; give what save() wrote")
    return found
