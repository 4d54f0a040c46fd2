"""The only door to models: `open_model`, and `open_tensors` for the weights alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Union

from fewbits.errors import ModelError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.nn import Module as Module

    from fewbits.data.weights import Weights
    from fewbits.models.protocol import Artifact, Model, Served, Twins

ModelSource = Union[str, Path, bytes, "ModelProto", "Module", "Model"]


def open_model(source: ModelSource, items: Sequence[object] = ()) -> Model:
    """Open an ONNX model from its path, its bytes, or a ``ModelProto`` (which is copied, never changed), or a PyTorch
    module (which is never changed). A module is exported with the first of `items`: batches without labels, as
    mappings from argument to array, or single arrays.

    Raises:
        ModelError: not an ONNX model, truncated, missing external data, NaN or Inf in its weights; a module that cannot
            be exported.
        DataError: `items` and a module do not go together.
    """
    # The framework is imported when a model of it is opened, so that `import fewbits` stays light.
    from fewbits.models.onnx_model import OnnxModel, is_proto  # noqa: PLC0415

    if is_module(source):
        from fewbits.models.pytorch.model import TorchModel  # noqa: PLC0415  as above

        return TorchModel.of_items(source, items)
    if isinstance(source, OnnxModel) or (_knows_torch() and _is_torch_model(source)):
        return source
    if isinstance(source, (str, Path)):
        return OnnxModel.load(Path(source))
    if isinstance(source, bytes):
        return OnnxModel.from_bytes(source)
    if is_proto(source):
        return OnnxModel.from_proto(source)
    raise ModelError(
        f"cannot open a model from {type(source).__name__}; give a path, bytes, an onnx.ModelProto or a torch.nn.Module"
    )


def open_twins(model: Model) -> Twins:
    """The PyTorch model `model` beside its ONNX export, which torch.onnx makes of it.

    Raises:
        ModelError: it is no PyTorch model; onnxscript is not installed; an operator has no form in ONNX.
    """
    if not (_knows_torch() and _is_torch_model(model)):
        raise ModelError("only a PyTorch module has an ONNX export; give a torch.nn.Module with example data")
    from fewbits.models.pytorch.onnx_export import twins_of  # noqa: PLC0415  as above

    return twins_of(model)


def open_served(path: Path) -> Served:
    """The model in the file at `path`, to be run as it is: ONNX, or a converted module that was stored (``.pt``). A
    stored module holds code: open only what you trust, as with ``torch.load``. Raises ModelError."""
    from fewbits.models.protocol import TORCH, Served  # noqa: PLC0415  as above

    if path.suffix != TORCH:
        model = open_model(path)
        return Served(model.inputs, model.original())
    from fewbits.models.pytorch.stored import served  # noqa: PLC0415  as above

    return served(path)


def open_module(source: str | Path | bytes | Artifact) -> Module:
    """The PyTorch module in an artifact of `fewbits.convert` or `fewbits.tune`, or in its bytes or file: it is called
    like the original. It holds code: open only what you trust, as with ``torch.load``.

    Raises:
        ModelError: it is none.
    """
    from fewbits.models.pytorch.stored import module_of  # noqa: PLC0415  as above

    return module_of(source)


def package(module: Module | Artifact | str | Path | bytes, path: str | Path) -> Path:
    """Compile a converted module (`Result.module`, or an artifact or file of one) ahead of time by AOTInductor, and
    write the package to `path`, a name that ends in ``.pt2``: C++ programs load it without Python (examples/cpp).

    Raises:
        ModelError: it is no converted module, or cannot be traced.
        ToolError: it cannot be compiled; a C++ compiler is needed.
        UsageError: another name.
    """
    destination = Path(path)
    if destination.suffix != ".pt2":
        raise UsageError(f"a package has a name that ends in .pt2, such as {destination.with_suffix('.pt2')}")
    from fewbits.models.pytorch.stored import packaged  # noqa: PLC0415  as above

    return packaged(module, destination)


def is_module(source: object) -> TypeGuard[Module]:
    """Whether `source` is a PyTorch module."""
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


__all__ = [
    "ModelSource",
    "is_module",
    "open_model",
    "open_module",
    "open_served",
    "open_tensors",
    "open_twins",
    "package",
]
