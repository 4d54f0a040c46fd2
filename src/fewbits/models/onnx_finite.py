"""NaN and infinity in a model: where they are an error, and what may carry them from where they are none."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fewbits.errors import ModelError
from fewbits.graph import Kind
from fewbits.models.onnx_kinds import kind
from fewbits.models.onnx_pieces import array

_ENDLESS = 1e30
"""From here on a value stands for infinity: masks are also filled with the lowest float32."""
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
_PRODUCTS = (Kind.CONV, Kind.CONV_TRANSPOSE, Kind.MATMUL, Kind.GEMM, Kind.BATCH_NORM)
# What gives finite values for -inf, with which masks and the borders of max-pools are filled.
_BOUNDED = frozenset(
    {"Clip", "Erf", "Exp", "GlobalMaxPool", "HardSigmoid", "Max", "MaxPool", "ReduceMax", "Relu", "Sigmoid", "Softmax"}
    | {"Tanh"}
)


def check_weights(model: ir.Model, name: str) -> None:
    """Raise ModelError on NaN in any constant, or Inf in the weight of a product.

    An infinite constant elsewhere is legal: attention masks are filled with it.
    """
    users = _weights(model)
    for value in model.graph.initializers.values():
        if value.const_value is None or value.dtype not in _FLOATS:
            continue
        values = array(value.const_value)
        finite = np.isfinite(values)
        if finite.all() or not (np.isnan(values).any() or value in users):
            continue
        user = users.get(value)
        where = f" of node {user.name} ({user.op_type})" if user else ""
        raise ModelError(
            f"{name}: the weight {value.name}{where} holds {finite.size - np.count_nonzero(finite)} NaN or Inf; "
            "train or export the model again"
        )


def infinite(model: ir.Model) -> frozenset[ir.Value]:
    """The constants with an infinite element and what is computed from them, as far as a bounded operation."""
    # Weights are finite, or the model would have been refused; they are most of the bytes.
    weights = _weights(model)
    constants = (value for value in model.graph.initializers.values() if value not in weights)
    found = {value for value in constants if _has_infinity(value.const_value)}
    for node in model.graph:
        if node.op_type == "ConstantOfShape" and "value" in node.attributes:
            filled = _has_infinity(node.attributes["value"].as_tensor())
        else:
            filled = node.op_type not in _BOUNDED and any(value in found for value in node.inputs)
        if filled:
            found.update(value for value in node.outputs if value.dtype is None or value.dtype in _FLOATS)
    return frozenset(found)


def _weights(model: ir.Model) -> dict[ir.Value, ir.Node]:
    """The initialisers that products read, straight or rearranged, and one product that does."""
    return {
        _root(value): node
        for node in model.graph
        if kind(node.domain, node.op_type) in _PRODUCTS
        for value in node.inputs
        if value is not None and value.const_value is not None
    }


def _root(value: ir.Value) -> ir.Value:
    """The initialiser that the constant `value` is a rearrangement of."""
    producer = value.producer()
    while producer is not None and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _has_infinity(tensor: ir.TensorProtocol | None) -> bool:
    if tensor is None or tensor.dtype not in _FLOATS:
        return False
    values = array(tensor)
    return values.size > 0 and max(float(values.max()), -float(values.min())) >= _ENDLESS
