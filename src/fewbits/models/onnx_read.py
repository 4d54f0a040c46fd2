"""ONNX files and bytes in, a checked ``ModelProto`` out, with a clear error for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo

from fewbits.errors import ModelError
from fewbits.models.onnx_annex import LIMIT
from fewbits.models.onnx_outside import check_structure, external_tensors, is_plain, resolve
from fewbits.models.onnx_pieces import Piece
from fewbits.models.protocol import Artifact

_GIB: Final = 2**30


def read_file(path: Path) -> tuple[bytes, onnx.ModelProto, frozenset[Piece]]:
    """The bytes of the file at `path`, the model in them parsed, and the weights in other files. Those are left
    there, but for small ones; the parsed model names the files by absolute paths.

    Raises:
        ModelError: not a file, not a whole ONNX model, or its external data is missing, too short or elsewhere.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a folder; give the ONNX file in it") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    proto = parse(content, str(path))
    return content, proto, frozenset([resolve(tensor, path) for tensor in external_tensors(proto)])


def read_bytes(content: bytes, name: str) -> onnx.ModelProto:
    """The model in `content`. Raises ModelError if it is not a whole ONNX model, complete in itself."""
    proto = parse(content, name)
    check_inside(proto, name)
    return proto


def check_inside(proto: onnx.ModelProto, name: str) -> None:
    """Raise ModelError unless `proto` has all its weights in it."""
    outside = next(external_tensors(proto), None)
    if outside is not None:
        raise ModelError(
            f"{name} keeps the weight {outside.name} in the file {ExternalDataInfo(outside).location}, and only a path "
            "says where that is; give the path of the model, or read it with onnx.load, which reads such files too"
        )


def parse(content: bytes, name: str) -> onnx.ModelProto:
    """The model in `content`. Raises ModelError if it is not a whole ONNX model."""
    if len(content) > LIMIT:
        raise ModelError(
            f"{name} has {len(content) / _GIB:.1f} GiB in one piece, and ONNX ends at 2 GiB; export it with its "
            "weights in a file beside it (external data)"
        )
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(
            f"{name} is not an ONNX model, or is truncated ({len(content)} bytes); export or download it again"
        ) from error
    if proto.graph.node and not proto.opset_import:
        raise ModelError(
            f"{name} imports no operator set, without which operators mean nothing, or is truncated; export or "
            "download it again"
        )
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(
            f"{name} is not an ONNX model, or is truncated: it holds no whole graph ({len(content)} bytes); "
            "export or download it again"
        )
    return proto


def check(original: Artifact, proto: onnx.ModelProto, name: str, *, mended: bool) -> None:
    """Raise ModelError unless `original`, parsed as `proto` and perhaps `mended`, is valid ONNX, all weights dense."""
    if proto.graph.sparse_initializer:
        raise ModelError(
            f"{name} keeps the weight {proto.graph.sparse_initializer[0].values.name} as a sparse tensor, which is not "
            "read; export it dense"
        )
    try:
        if original.path is None and not mended and is_plain(proto):
            onnx.checker.check_model(original.content)
        else:
            check_structure(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"{name} is not a valid ONNX model, or is truncated: {str(error).splitlines()[0]} Export it again"
        ) from error
