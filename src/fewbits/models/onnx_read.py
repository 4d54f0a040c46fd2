"""ONNX files and bytes in, a checked ``ModelProto`` out, with a clear error for whatever is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from fewbits.errors import ModelError


def read_file(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """The model at `path`, its external data included, as bytes that are complete in themselves and parsed.

    Without external data the bytes are those of the file.

    Raises:
        ModelError: not a file, not a whole ONNX model, or its external data is missing or too short.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a folder; give the ONNX file in it") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    proto = parse(content, str(path))
    tensors = list(external_tensors(proto))
    if not tensors:
        return content, proto
    for tensor in tensors:
        check_external(tensor, path)
    try:
        load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"cannot read the external data of {path}: {error}") from error
    check_size(proto, str(path))
    return proto.SerializeToString(), proto


def read_bytes(content: bytes, name: str) -> onnx.ModelProto:
    """The model in `content`. Raises ModelError if it is not a whole ONNX model, complete in itself."""
    proto = parse(content, name)
    outside = next(external_tensors(proto), None)
    if outside is not None:
        raise ModelError(
            f"{name} keeps the weight {outside.name} in the file {ExternalDataInfo(outside).location}, and only a path "
            "says where that is; give the path of the model, or read it with onnx.load, which reads such files too"
        )
    return proto


def parse(content: bytes, name: str) -> onnx.ModelProto:
    """The model in `content`. Raises ModelError if it is not a whole ONNX model."""
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(
            f"{name} is not an ONNX model, or is truncated ({len(content)} bytes); export or download it again"
        ) from error
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        raise ModelError(
            f"{name} is not an ONNX model, or is truncated: it holds no whole graph ({len(content)} bytes); "
            "export or download it again"
        )
    return proto


def check(content: bytes, proto: onnx.ModelProto, name: str) -> None:
    """Raise ModelError unless the model in `content`, parsed as `proto`, is valid ONNX, all weights dense."""
    if proto.graph.sparse_initializer:
        raise ModelError(
            f"{name} keeps the weight {proto.graph.sparse_initializer[0].values.name} as a sparse tensor, which is not "
            "read; export it dense"
        )
    try:
        onnx.checker.check_model(content)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"{name} is not a valid ONNX model, or is truncated: {str(error).splitlines()[0]} Export it again"
        ) from error


def external_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The tensors of `proto` whose values lie in other files, wherever in the model they stand."""
    for tensor in _tensors(proto.graph):
        if uses_external_data(tensor):
            yield tensor
    for function in proto.functions:
        for tensor in _constants(function.node):
            if uses_external_data(tensor):
                yield tensor


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _constants(graph.node)


def _constants(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def check_external(tensor: onnx.TensorProto, path: Path) -> None:
    """Raise ModelError unless the file in which the model at `path` keeps `tensor` is there, and long enough."""
    info = ExternalDataInfo(tensor)
    file = path.parent / info.location
    if not file.is_file():
        raise ModelError(
            f"{path} keeps its weights in {info.location}, which is not in {path.parent.resolve()}; "
            "copy that file there, under the same name"
        )
    end = (info.offset or 0) + (info.length or 0)
    if file.stat().st_size < end:
        raise ModelError(
            f"{file} is truncated: the weight {tensor.name} ends at byte {end}, the file at byte "
            f"{file.stat().st_size}; copy or export it again"
        )


def check_size(proto: onnx.ModelProto, name: str) -> None:
    """Raise ModelError if `proto` is larger than what can be written in one piece."""
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ModelError(
            f"{name} has {proto.ByteSize() / 2**30:.1f} GiB of weights and graph; models of up to 2 GiB can be tuned"
        )
