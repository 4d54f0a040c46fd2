"""ONNX files and bytes in, a normalised onnx-ir model out, with a clear error for whatever is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data
from onnx_ir.passes import common

from fewbits.errors import ModelError
from fewbits.graph import Kind
from fewbits.models.onnx_kinds import kind

PRODUCTS = (Kind.CONV, Kind.CONV_TRANSPOSE, Kind.MATMUL, Kind.GEMM, Kind.BATCH_NORM)


def read_file(path: Path) -> onnx.ModelProto:
    """The model at `path`, its external data included. Raises ModelError."""
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a folder; give the ONNX file in it") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    proto = parse(content, str(path))
    missing = {name for name in external_files(proto) if not (path.parent / name).is_file()}
    if missing:
        raise ModelError(
            f"{path} keeps its weights in {', '.join(sorted(missing))}, which is not in {path.parent.resolve()}; "
            "copy the external data file there"
        )
    try:
        load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"cannot read the external data of {path}: {error}") from error
    return proto


def parse(content: bytes, name: str) -> onnx.ModelProto:
    """The model in `content`. Raises ModelError if it is not a whole ONNX model."""
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(f"{name} is not an ONNX model, or the file is truncated ({len(content)} bytes)") from error
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{name} is not an ONNX model: it holds no graph ({len(content)} bytes)")
    return proto


def external_files(proto: onnx.ModelProto) -> Iterator[str]:
    """Names of the files that hold weights outside the model file."""
    for tensor in proto.graph.initializer:
        if uses_external_data(tensor):
            yield ExternalDataInfo(tensor).location


def check(proto: onnx.ModelProto, name: str) -> None:
    """Raise ModelError unless `proto` is valid ONNX with finite weights."""
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{name} is not a valid ONNX model: {str(error).splitlines()[0]}") from error
    except ValueError as error:  # over protobuf's 2 GiB limit
        raise ModelError(f"{name} cannot be checked in memory: {error}") from error


def normalised(proto: onnx.ModelProto) -> ir.Model:
    """`proto` as onnx-ir with shapes inferred, functions inlined, constants as initialisers, every node named.

    Names are derived from the graph alone, so the same file gives the same names in every process.
    """
    if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    model = ir.from_proto(proto)
    passes = [
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ]
    model = ir.passes.Sequential(*passes)(model).model
    name_nodes(model)
    return model


def name_nodes(model: ir.Model) -> None:
    """Give each node a name that no other node has; the first holder of a name keeps it."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in seen:
            name = f"{name}_{index}"
        seen.add(name)
        node.name = name


def check_weights(model: ir.Model, name: str) -> None:
    """Raise ModelError on NaN in any constant, or Inf in the weight of a product.

    An infinite constant elsewhere is legal: attention masks are filled with it.
    """
    operands = {
        value.name: node
        for node in model.graph
        if kind(node.domain, node.op_type) in PRODUCTS
        for value in node.inputs
        if value is not None
    }
    for value in model.graph.initializers.values():
        if value.const_value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
            continue
        array = value.const_value.numpy()
        if np.isnan(array).any() or (value.name in operands and not np.isfinite(array).all()):
            user = operands.get(value.name)
            where = f" of node {user.name} ({user.op_type})" if user else ""
            bad = int(array.size - np.isfinite(array).sum())
            raise ModelError(f"{name}: the weight {value.name}{where} holds {bad} NaN or Inf; train or export it again")
