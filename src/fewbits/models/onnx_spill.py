"""A model in memory that is too large for one piece, written down with its weights in the annex."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.field_mask_pb2 import FieldMask

from fewbits.models.onnx_annex import SMALL, Annex
from fewbits.models.onnx_outside import all_tensors, bytes_of, place
from fewbits.models.onnx_pieces import DATA


def bytes_within(tensor: onnx.TensorProto) -> int:
    """The bytes that the values of `tensor` take in memory, but for texts."""
    return 0 if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED) else bytes_of(tensor)


def spilled(proto: onnx.ModelProto, annex: Annex) -> Path:
    """The file of `proto` in `annex`. Weights go one by one; `proto` is left as it was. Raises StorageError."""
    copy = onnx.ModelProto()
    graph = [f"graph.{one.name}" for one in onnx.GraphProto.DESCRIPTOR.fields if one.name != "initializer"]
    rest = [one.name for one in onnx.ModelProto.DESCRIPTOR.fields if one.name != "graph"]
    FieldMask(paths=[*graph, *rest]).MergeMessage(proto, copy)
    for tensor in proto.graph.initializer:
        if bytes_within(tensor) > SMALL:
            copy.graph.initializer.append(_moved(tensor, annex))
        else:
            copy.graph.initializer.append(tensor)
    for tensor in all_tensors(copy):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and bytes_within(tensor) > SMALL:
            tensor.CopyFrom(_moved(tensor, annex))
    return annex.store(copy.SerializeToString())


def _moved(tensor: onnx.TensorProto, annex: Annex) -> onnx.TensorProto:
    kept = annex.add(ir.serde.deserialize_tensor(tensor))
    moved = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    place(moved, DATA, kept.offset or 0, kept.length or 0)
    return moved
