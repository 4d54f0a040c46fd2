"""The only door to models: `open_model`, `open_tensors` for the weights alone, and `pack` for those that are saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Union

from fewbits.errors import ModelError

if TYPE_CHECKING:
    from onnx import ModelProto

    from fewbits.data.weights import Weights
    from fewbits.models.protocol import Artifact, Model, Packed

ModelSource = Union[str, Path, bytes, "ModelProto", "Model"]


def open_model(source: ModelSource) -> Model:
    """Open an ONNX model from its path, its bytes, or a ``ModelProto`` (which is copied, never changed).

    Raises:
        ModelError: not an ONNX model, truncated, missing external data, NaN or Inf in its weights.
    """
    # The framework is imported when a model of it is opened, so that `import fewbits` stays light.
    from fewbits.models.onnx_model import OnnxModel, is_proto  # noqa: PLC0415

    if isinstance(source, OnnxModel):
        return source
    if isinstance(source, (str, Path)):
        return OnnxModel.load(Path(source))
    if isinstance(source, bytes):
        return OnnxModel.from_bytes(source)
    if is_proto(source):
        return OnnxModel.from_proto(source)
    raise ModelError(f"cannot open a model from {type(source).__name__}; give a path, bytes or an onnx.ModelProto")


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


__all__ = ["ModelSource", "open_model", "open_tensors", "pack"]
