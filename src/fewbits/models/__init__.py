"""The only door to models: `open_model`, and `open_tensors` for the weights alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Union

from fewbits.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram
    from torch.nn import Module

    from fewbits.data.weights import Weights
    from fewbits.models.protocol import Model

ModelSource = Union[str, Path, bytes, "ModelProto", "Module", "ExportedProgram", "Model"]

_EXPORTED = (".pt2",)
"""What files are called that ``torch.export.save`` wrote."""


def open_model(source: ModelSource, items: Sequence[object] = ()) -> Model:
    """Open an ONNX model from its path, its bytes, or a ``ModelProto`` (which is copied, never changed), a PyTorch
    module (which is never changed), or a program that ``torch.export`` made, from its ``.pt2`` file as well (which
    holds code: open only what you trust). A module is exported with the first of `items`: batches without labels, as
    mappings from argument to array, tuples of arrays, or single arrays.

    Raises:
        ModelError: not an ONNX model, truncated, missing external data, NaN or Inf in its weights; a module that cannot
            be exported, or a file that holds no exported program.
        DataError: `items` and a module do not go together.
    """
    # The framework is imported when a model of it is opened, so that `import fewbits` stays light.
    if is_torch(source):
        from fewbits.models.pytorch.opening import opened  # noqa: PLC0415  as above

        return opened(source, items)
    from fewbits.models.onnx_model import OnnxModel, is_proto  # noqa: PLC0415  as above

    if isinstance(source, OnnxModel) or (_knows_torch() and _is_torch_model(source)):
        return source
    if isinstance(source, (str, Path)):
        return OnnxModel.load(Path(source))
    if isinstance(source, bytes):
        return OnnxModel.from_bytes(source)
    if is_proto(source):
        return OnnxModel.from_proto(source)
    raise ModelError(
        f"cannot open a model from {type(source).__name__}; give a path, bytes, an onnx.ModelProto, a torch.nn.Module "
        "or a torch.export.ExportedProgram"
    )


def is_torch(source: object) -> TypeGuard[Module | ExportedProgram | str | Path]:
    """Whether `source` is opened as a PyTorch model: a module, an exported program, or the file of one."""
    if isinstance(source, str | Path):
        return Path(source).suffix in _EXPORTED
    return is_module(source) or is_exported(source)


def is_exported(source: object) -> TypeGuard[ExportedProgram]:
    """Whether `source` is what ``torch.export.export`` gives."""
    if not _knows_torch():
        return False
    from torch.export import ExportedProgram  # noqa: PLC0415  as above

    return isinstance(source, ExportedProgram)


def is_module(source: object) -> TypeGuard[Module]:
    """Whether `source` is a PyTorch module, which says what it reads only together with data."""
    if not _knows_torch():
        return False
    from torch.nn import Module  # noqa: PLC0415  as above

    return isinstance(source, Module)


def _is_torch_model(source: object) -> TypeGuard[Model]:
    from fewbits.models.pytorch.model import TorchModel  # noqa: PLC0415  as above

    return isinstance(source, TorchModel)


def _knows_torch() -> bool:
    """Whether anybody in this process has imported PyTorch: otherwise nothing can be a module."""
    return "torch" in sys.modules


def open_tensors(path: Path) -> Weights:
    """The constant tensors of the ONNX file at `path`, as they are stored; it need not be a model that can be tuned.

    Raises:
        ModelError: not a file, or not a whole ONNX model; while a tensor is read: missing external data.
    """
    from fewbits.models import onnx_tensors  # noqa: PLC0415  as above

    return onnx_tensors.open_tensors(path)


__all__ = ["ModelSource", "is_exported", "is_module", "is_torch", "open_model", "open_tensors"]
