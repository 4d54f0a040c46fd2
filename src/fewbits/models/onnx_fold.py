"""Batch normalisation folded into the convolution before it.

``W' = W * gamma / sigma``, ``b' = beta + (b - mean) * gamma / sigma``, ``sigma = sqrt(var + eps)``.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.models.onnx_names import constant


class FoldBatchNorm(ir.passes.InPlacePass):
    """Folds the batch norm behind each convolution whose node name is in `convolutions`."""

    def __init__(self, convolutions: Collection[str]) -> None:
        super().__init__()
        self._convolutions = frozenset(convolutions)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was folded."""
        modified = False
        for node in list(model.graph):
            if node.name in self._convolutions and node.op_type == "Conv":
                modified |= _fold(model, node)
        return ir.passes.PassResult(model, modified)


def _fold(model: ir.Model, conv: ir.Node) -> bool:
    readers = conv.outputs[0].consumers()
    if len(readers) != 1 or readers[0].op_type != "BatchNormalization" or conv.outputs[0].is_graph_output():
        return False
    norm = readers[0]
    arrays = [array_of(value) for value in norm.inputs[1:5]]
    weight = array_of(conv.inputs[1])
    gamma, beta, mean, variance = arrays
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    ratio = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    bias = array_of(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else np.zeros_like(mean)
    folded = weight * ratio.reshape(-1, *[1] * (weight.ndim - 1))
    shifted = beta + (bias - mean) * ratio
    new_weight = constant(model, f"{conv.name}.folded_weight", folded.astype(np.float32))
    new_bias = constant(model, f"{conv.name}.folded_bias", shifted.astype(np.float32))
    conv.resize_inputs(3)
    conv.replace_input_with(1, new_weight)
    conv.replace_input_with(2, new_bias)
    # The convolution now gives what the norm gave, under the norm's name, so that ranges and graph outputs hold.
    take_over(norm.outputs[0], conv.outputs[0])
    model.graph.remove(norm, safe=True)
    return True


def take_over(old: ir.Value, new: ir.Value) -> None:
    """`new` replaces `old` everywhere, graph outputs included, and gets its name, type and shape."""
    name = old.name
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name = f"{name}.replaced"
    new.name = name


def array_of(value: ir.Value | None) -> Array:
    """The constant that `value` is. Raises ValueError if it is none."""
    if value is None or value.const_value is None:
        raise ValueError("not a constant")
    return value.const_value.numpy()
