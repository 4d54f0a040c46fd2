"""Constants that no trained model should hold."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph import Kind
from fewbits.models.onnx_kinds import kind

_PRODUCTS = (Kind.CONV, Kind.CONV_TRANSPOSE, Kind.MATMUL, Kind.GEMM, Kind.BATCH_NORM)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


def check_weights(model: ir.Model, name: str) -> None:
    """Raise ModelError on NaN in any constant, or Inf in the weight of a product.

    An infinite constant elsewhere is legal: attention masks are filled with it.
    """
    users = {
        root(value): node
        for node in model.graph
        if kind(node.domain, node.op_type) in _PRODUCTS
        for value in node.inputs
        if value is not None
    }
    for value in model.graph.initializers.values():
        if value.const_value is None or value.dtype not in _FLOATS:
            continue
        array = value.const_value.numpy()
        finite = np.isfinite(array)
        if finite.all() or not (np.isnan(array).any() or value in users):
            continue
        user = users.get(value)
        where = f" of node {user.name} ({user.op_type})" if user else ""
        raise ModelError(
            f"{name}: the weight {value.name}{where} holds {finite.size - np.count_nonzero(finite)} NaN or Inf; "
            "train or export the model again"
        )


def root(value: ir.Value) -> ir.Value:
    """The initialiser that the constant `value` is a rearrangement of, or `value` itself."""
    while value.const_value is not None:
        producer = value.producer()
        source = None if producer is None else producer.inputs[0]
        if source is None:
            break
        value = source
    return value
