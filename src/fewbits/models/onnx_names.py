"""New values in an onnx-ir model, with names that nothing else has."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array


def fresh(model: ir.Model, wanted: str) -> str:
    """`wanted`, or `wanted` with a number behind it if the graph already has that name."""
    taken = {value.name for node in model.graph for value in node.outputs}
    taken |= set(model.graph.initializers) | {value.name for value in model.graph.inputs}
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def constant(model: ir.Model, wanted: str, array: Array) -> ir.Value:
    """A new initialiser that holds `array`; its name is `wanted` or close to it."""
    name = wanted
    number = 1
    while name in model.graph.initializers:
        name, number = f"{wanted}_{number}", number + 1
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value
