"""A model as a proto without its weights, for ONNX's own functions, which copy all that they are given and take 2 GiB
at most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import onnx
import onnx_ir as ir

_PARAMETER: Final = 1000
"""Constants of at most so many bytes may be parameters (axes, shapes, scales), whose values say what a node does."""


@contextmanager
def without_weights(model: ir.Model) -> Iterator[onnx.ModelProto]:
    """`model` as a proto in which every large constant is an input. `model` has them again afterwards."""
    graph = model.graph
    weights = [
        (value, value.const_value)
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > _PARAMETER
    ]
    given = list(graph.inputs)
    for value, tensor in weights:
        graph.initializers.pop(str(value.name))
        value.shape, value.dtype, value.const_value = ir.Shape(tensor.shape.numpy()), tensor.dtype, None
        if value not in given:
            graph.inputs.append(value)
    try:
        yield ir.to_proto(model)
    finally:
        for value, tensor in weights:
            value.const_value = tensor
            graph.register_initializer(value)
        graph.inputs[:] = given
