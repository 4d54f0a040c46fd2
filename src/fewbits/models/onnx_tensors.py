"""The constant tensors of an ONNX file as they are stored, without opening it as a model.

Nothing is normalised or checked against an operator set, so that any file whose tensors can be read will do,
models of other domains and of more than 2 GiB included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from fewbits.data.batches import Array
from fewbits.data.weights import FileWeights
from fewbits.errors import DataError, ModelError
from fewbits.graph import Tensor
from fewbits.models.onnx_outside import check_external
from fewbits.models.onnx_read import parse


def open_tensors(path: Path) -> FileWeights:
    """Initialisers and constants of the file at `path`, those of subgraphs included, each read when it is asked for.

    A constant node's tensor has the name of its output; a name that is taken gets ``#2``, ``#3``, ….

    Raises:
        ModelError: not a file, or not a whole ONNX model; from ``read``: external data that is missing or too short.
    """
    try:
        proto = parse(path.read_bytes(), str(path))
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a folder; give the ONNX file in it") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    found = _distinct(_named(proto.graph))
    tensors = tuple(Tensor(name, _type(one), tuple(one.dims), constant=True) for name, one in found.items())

    def read(name: str) -> Array:
        one = found[name]
        if uses_external_data(one):
            check_external(one, path)
            # The original would keep the values that are loaded into it.
            one = onnx.TensorProto.FromString(one.SerializeToString())
        try:
            return numpy_helper.to_array(one, str(path.resolve().parent))
        except (ValueError, OSError, onnx.checker.ValidationError) as error:
            raise DataError(f"{path}: the tensor {name!r} is damaged ({error}); export the model again") from error

    return FileWeights(tensors, read)


def _named(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield node.output[0], attribute.t
            for inner in (attribute.g, *attribute.graphs):
                yield from _named(inner)


def _distinct(named: Iterator[tuple[str, onnx.TensorProto]]) -> Mapping[str, onnx.TensorProto]:
    found: dict[str, onnx.TensorProto] = {}
    for name, tensor in named:
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name}#{number}"
        found[free] = tensor
    return found


def _type(tensor: onnx.TensorProto) -> str:
    """Numpy's name for the type of `tensor`."""
    known = tensor.data_type in onnx.helper.get_all_tensor_dtypes()
    if not known or tensor.data_type == onnx.TensorProto.STRING:
        return "str" if known else f"type {tensor.data_type}"
    return str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
