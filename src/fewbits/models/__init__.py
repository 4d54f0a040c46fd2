"""The only door to models: `open_model`, `open_tensors` for the weights alone, and `pack` for those that are saved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Union

from fewbits.errors import ModelError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto as ModelProto
    from torch.export import ExportedProgram
    from torch.nn import Module as Module

    from fewbits.data.weights import Weights
    from fewbits.formats.scheme import Scheme
    from fewbits.models.protocol import Artifact, Model, Packed, Served, Twins
    from fewbits.models.pytorch.converted import Converted as Converted
    from fewbits.models.pytorch.deferred import Deferred as Deferred
    from fewbits.models.pytorch.leaves import ConvertedLayers as ConvertedLayers
    from fewbits.plan import Plan

ModelSource = Union[str, Path, bytes, "ModelProto", "Module", "ExportedProgram", "Model"]

_EXPORTED = (".pt2",)
"""What files are called that ``torch.export.save`` wrote."""


def open_model(source: ModelSource, items: Sequence[object] = (), device: str = "") -> Model:
    """Open an ONNX model from its path, its bytes, or a ``ModelProto`` (which is copied, never changed), a PyTorch
    module (which is never changed), or a program that ``torch.export`` made, from its ``.pt2`` file as well (which
    holds code: open only what you trust). A module is exported with the first of `items`: batches without labels, as
    mappings from argument to array, tuples of arrays, or single arrays. `device` is where a PyTorch model is to compute
    (``cpu`` or ``cuda``), by default where it is; it is copied there.

    Raises:
        ModelError: not an ONNX model, truncated, missing external data, NaN or Inf in its weights; a module that cannot
            be exported, or a file that holds no exported program.
        DataError: `items` and a module do not go together.
    """
    # The framework is imported when a model of it is opened, so that `import fewbits` stays light.
    if is_torch(source):
        from fewbits.models.pytorch.opening import opened  # noqa: PLC0415  as above

        return opened(source, items, device)
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
    """The PyTorch module in an artifact of `fewbits.convert` or `fewbits.tune`, in its bytes or file, or in the folder
    that ``save`` wrote: it is called like the original. It holds code: open only what you trust, as with
    ``torch.load``.

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


def opened_module(content: bytes) -> Converted:
    """The converted PyTorch module of an artefact. Raises ModelError."""
    from fewbits.models.pytorch.converted import opened  # noqa: PLC0415  as above

    return opened(content)


def deferred(
    module: Module,
    planner: Callable[[Model], Plan],
    precision: str,
    narrows: Callable[[str], bool],
    decide: Callable[[str, str], Scheme],
) -> Deferred:
    """`module` converted at its first call, as `planner` says, or layer by layer as `decide` does. Raises ModelError if
    it cannot be copied."""
    from fewbits.models.pytorch.deferred import Deferred  # noqa: PLC0415  as above

    return Deferred(module, planner, precision, narrows, decide)


def converted_layers(module: Module, decide: Callable[[str, str], Scheme]) -> ConvertedLayers:
    """`module` converted layer by layer, for what cannot be exported: `decide` gives the scheme of the layer at a path,
    of a class by its name in small letters. Raises ModelError if there is no such layer."""
    from fewbits.models.pytorch.leaves import convert_leaves  # noqa: PLC0415  as above

    return convert_leaves(module, lambda path, layer: decide(path, type(layer).__name__.lower()))


def recorded(module: Module, function: Callable[[object], object]) -> tuple[Mapping[str, object], ...]:
    """The arguments that `function` calls `module` with. Raises MetricError if it never does."""
    from fewbits.models.pytorch import recording  # noqa: PLC0415  as above

    return recording.recorded(module, function)


def proto_of(artifact: Artifact) -> ModelProto:
    """The ONNX model of `artifact`, with its weights in it. Raises ModelError if they are not where they were."""
    from fewbits.models.onnx_pack import whole  # noqa: PLC0415  as above

    return whole(artifact)


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


def pack(artifact: Artifact, location: str) -> Packed:
    """`artifact` as it is saved, with those weights that are not in one piece with it in a file beside it, which is
    called `location`.

    Raises:
        ModelError: while weights are read: they are not where they were any more.
    """
    from fewbits.models import onnx_pack  # noqa: PLC0415  as above

    return onnx_pack.packed(artifact, location)


__all__ = [
    "ModelSource",
    "converted_layers",
    "deferred",
    "is_exported",
    "is_module",
    "is_torch",
    "open_model",
    "open_module",
    "open_served",
    "open_tensors",
    "open_twins",
    "opened_module",
    "pack",
    "package",
    "proto_of",
    "recorded",
]
