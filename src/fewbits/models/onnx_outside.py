"""Tensors of a ``ModelProto`` whose values lie in other files (ONNX: external data)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from fewbits.errors import ModelError
from fewbits.models.onnx_annex import SMALL
from fewbits.models.onnx_pieces import Piece, chunks

_PLACE: Final = ("location", "offset", "length")


def external_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The tensors of `proto` whose values lie in other files, wherever in the model they stand."""
    return (tensor for tensor in all_tensors(proto) if uses_external_data(tensor))


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initialisers and tensors in attributes, those of subgraphs and functions included."""
    yield from _tensors(proto.graph)
    for function in proto.functions:
        yield from _constants(function.node)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _constants(graph.node)


def _constants(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def piece_of(tensor: onnx.TensorProto) -> Piece:
    """Where the values of `tensor` lie, as it says itself."""
    info = ExternalDataInfo(tensor)
    return Piece(Path(info.location), info.offset or 0, bytes_of(tensor) if info.length is None else info.length)


def place(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Let `tensor` say that its values are `length` bytes from `offset` of the file `location` on."""
    del tensor.external_data[:]
    for key, value in zip(_PLACE, (location, offset, length), strict=True):
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = onnx.TensorProto.EXTERNAL


def load(tensor: onnx.TensorProto) -> None:
    """Put the values of `tensor` into it."""
    content = b"".join(chunks((piece_of(tensor),)))
    embed(tensor)
    tensor.raw_data = content


def embed(tensor: onnx.TensorProto) -> None:
    """Let `tensor` say nothing of a place."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def bytes_of(tensor: onnx.TensorProto) -> int:
    """The bytes of `tensor`'s values by its type and shape. Raises ModelError if its type has no fixed size."""
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the weight {tensor.name} is of type {tensor.data_type}, whose values cannot lie in another file; export "
            "the model again"
        ) from error
    return -(-math.prod(map(int, tensor.dims)) * int(bits) // 8)


def resolve(tensor: onnx.TensorProto, path: Path) -> Piece:
    """Let `tensor` of the model at `path` name its file by an absolute path, or take it in if it is small; where it
    lies. Raises ModelError as `check_external`, and if it is not as long as its shape says."""
    file = check_external(tensor, path)
    piece = piece_of(tensor)
    if piece.length != bytes_of(tensor):
        raise ModelError(
            f"{path} says that the weight {tensor.name} has {piece.length} bytes in {piece.file}, but its type and "
            f"shape {list(tensor.dims)} make {bytes_of(tensor)}; export the model again"
        )
    place(tensor, str(file), piece.offset, piece.length)
    if piece.length <= SMALL:
        load(tensor)
    return Piece(file, piece.offset, piece.length)


def check_external(tensor: onnx.TensorProto, path: Path) -> Path:
    """The file in which the model at `path` keeps `tensor`. Raise ModelError unless it is there, beside the model or
    below, and long enough."""
    piece = piece_of(tensor)
    # A runtime looks beside the file itself, not beside a link to it.
    folder = path.resolve().parent
    file = folder / piece.file
    if not piece.file.name or piece.file.is_absolute() or not file.resolve().is_relative_to(folder):
        raise ModelError(
            f"{path} keeps the weight {tensor.name} in {piece.file or 'no file'}, which is not in the model's folder "
            f"{folder} ({file.resolve()}); runtimes read weights from there alone. Put the file itself there, no link "
            "to it"
        )
    if not file.is_file():
        raise ModelError(
            f"{path} keeps its weights in {piece.file}, which is not in {folder}; copy that file there, under the same "
            "name"
        )
    end, size = piece.offset + piece.length, file.stat().st_size
    if size < end:
        raise ModelError(
            f"{file} is truncated: the weight {tensor.name} ends at byte {end}, the file at byte {size}; copy or "
            "export it again"
        )
    return file


def is_plain(proto: onnx.ModelProto) -> bool:
    """Whether ONNX's own checks take `proto` as it is: no weights in other files, and inputs and outputs of a known
    rank, which runtimes do not ask for."""
    ends = (*proto.graph.input, *proto.graph.output)
    return next(external_tensors(proto), None) is None and all(map(_has_rank, ends))


def _has_rank(value: onnx.ValueInfoProto) -> bool:
    return value.HasField("type") and (
        not value.type.HasField("tensor_type") or value.type.tensor_type.HasField("shape")
    )


def check_structure(proto: onnx.ModelProto) -> None:
    """ONNX's own checks of `proto` without what they do not take (`is_plain`): weights in other files they would look
    for beside the working directory. Raises ValidationError."""
    hollow = onnx.ModelProto()
    hollow.CopyFrom(proto)
    for tensor in external_tensors(hollow):
        embed(tensor)
        tensor.dims[:] = [0]
    for value in (one for one in (*hollow.graph.input, *hollow.graph.output) if not _has_rank(one)):
        if not value.HasField("type"):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(hollow.SerializeToString())
