"""The hash of a model, which is the same wherever its weights lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain
from typing import Final

import onnx
from google.protobuf.descriptor import Descriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from onnx.external_data_helper import uses_external_data

from fewbits.models.onnx_outside import all_tensors, embed, external_tensors, load, piece_of
from fewbits.models.onnx_pieces import chunks
from fewbits.models.protocol import Artifact

_GRAPH: Final = 7
_INITIALIZER: Final = 5
_RAW: Final = 9
_BYTES: Final = 2
"""Of the wire format: a field whose length stands before it."""


def sha256_of(original: Artifact, proto: onnx.ModelProto) -> str:
    """The SHA-256 of `original`, parsed as `proto` with absolute paths of its weights: of its bytes, if these are
    complete and say nothing of other places; else of what protobuf would write if the weights were in it, read a little
    at a time."""
    if original.path is None and not any(tensor.HasField("data_location") for tensor in all_tensors(proto)):
        return hashlib.sha256(original.content).hexdigest()
    found = hashlib.sha256()
    for part in _in_one_piece(proto):
        found.update(part)
    return found.hexdigest()


def _in_one_piece(proto: onnx.ModelProto) -> Iterator[bytes]:
    """`proto` as bytes, its weights among them. Fields are written by number; only the weights of the main graph, in
    the middle of it, are not held in memory."""
    rest = _without(proto, onnx.ModelProto(), {_GRAPH})
    graph = _without(proto.graph, onnx.GraphProto(), {_INITIALIZER})
    whole = onnx.ModelProto()
    whole.CopyFrom(rest)
    whole.graph.CopyFrom(graph)
    for tensor in external_tensors(whole):
        load(tensor)
    for tensor in all_tensors(whole):
        embed(tensor)
    before, behind = _halves(whole.graph, onnx.GraphProto(), _INITIALIZER)
    tensors = [_tensor(one) for one in proto.graph.initializer]
    length = len(before) + sum(len(head) + size for head, size, _ in tensors) + len(behind)
    first, last = _halves(whole, onnx.ModelProto(), _GRAPH)
    yield first + _tag(_GRAPH) + _varint(length) + before
    for head, _, parts in tensors:
        yield head
        yield from parts
    yield behind + last


def _tensor(tensor: onnx.TensorProto) -> tuple[bytes, int, Iterator[bytes]]:
    """`tensor` as a field of its graph: what is written first, how much follows, and that."""
    if not uses_external_data(tensor):
        # Made twice, so that not all weights are held twice.
        size = len(_embedded(tensor))
        return _tag(_INITIALIZER) + _varint(size), size, (_embedded(one) for one in (tensor,))
    piece = piece_of(tensor)
    outside = onnx.TensorProto()
    outside.CopyFrom(tensor)
    embed(outside)
    before, behind = _halves(outside, onnx.TensorProto(), _RAW)
    start = before + _tag(_RAW) + _varint(piece.length)
    length = len(start) + piece.length + len(behind)
    return _tag(_INITIALIZER) + _varint(length) + start, length - len(start), chain(chunks((piece,)), (behind,))


def _embedded(tensor: onnx.TensorProto) -> bytes:
    plain = onnx.TensorProto()
    plain.CopyFrom(tensor)
    embed(plain)
    content: bytes = plain.SerializeToString()
    return content


def _without(message: Message, empty: Message, numbers: set[int]) -> Message:
    """`empty` with the fields of `message` but those with `numbers`."""
    fields: Descriptor = message.DESCRIPTOR
    FieldMask(paths=[one.name for one in fields.fields if one.number not in numbers]).MergeMessage(message, empty)
    return empty


def _halves(message: Message, empty: Message, number: int) -> tuple[bytes, bytes]:
    """The fields of `message` before that with `number` and those behind it, as bytes."""
    numbers = {one.number for one in message.DESCRIPTOR.fields}
    before = _without(message, empty, {one for one in numbers if one >= number}).SerializeToString()
    empty.Clear()
    return before, _without(message, empty, {one for one in numbers if one <= number}).SerializeToString()


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _BYTES)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    found = bytearray()
    while value >= 1 << 7:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
