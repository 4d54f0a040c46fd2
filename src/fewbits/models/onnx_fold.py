"""Batch normalisation folded into the convolution before it.

``W' = W * gamma / sigma``, ``b' = beta + (b - mean) * gamma / sigma``, ``sigma = sqrt(var + eps)``.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.models.onnx_names import Names, array_of, take_over

_DEFAULT_EPSILON = 1e-5
_CONVOLUTIONS = ("Conv", "ConvTranspose")


class FoldBatchNorm(ir.passes.InPlacePass):
    """Folds the batch norm behind each convolution whose node name is in `convolutions`."""

    def __init__(self, convolutions: Collection[str]) -> None:
        super().__init__()
        self._convolutions = frozenset(convolutions)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was folded."""
        names = Names(model)
        convolutions = [
            node for node in model.graph if node.name in self._convolutions and node.op_type in _CONVOLUTIONS
        ]
        modified = [_fold(model, names, conv) for conv in convolutions]
        return ir.passes.PassResult(model, any(modified))


def _fold(model: ir.Model, names: Names, conv: ir.Node) -> bool:
    readers = conv.outputs[0].consumers()
    if len(readers) != 1 or readers[0].op_type != "BatchNormalization" or conv.outputs[0].is_graph_output():
        return False
    norm = readers[0]
    gamma, beta, mean, variance = (array_of(value).astype(np.float64) for value in norm.inputs[1:5])
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else _DEFAULT_EPSILON
    ratio = gamma / np.sqrt(variance + epsilon)
    weight = array_of(conv.inputs[1])
    bias = array_of(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else np.zeros_like(mean)
    folded = _scaled(conv, weight, ratio)
    shifted = beta + (bias - mean) * ratio
    conv.resize_inputs(3)
    conv.replace_input_with(1, names.constant(f"{conv.name}.folded_weight", folded.astype(np.float32)))
    conv.replace_input_with(2, names.constant(f"{conv.name}.folded_bias", shifted.astype(np.float32)))
    # The convolution now gives what the norm gave, under the norm's name, so that ranges and graph outputs hold.
    take_over(norm.outputs[0], conv.outputs[0])
    model.graph.remove(norm, safe=True)
    return True


def _scaled(conv: ir.Node, weight: Array, ratio: Array) -> Array:
    """`weight` with each output channel times its `ratio`. Shapes: (outputs, inputs / groups, ...), transposed
    (inputs, outputs / groups, ...)."""
    ones = [1] * (weight.ndim - 2)
    if conv.op_type == "Conv":
        return np.asarray(weight * ratio.reshape(-1, 1, *ones))
    groups = conv.attributes["group"].as_int() if "group" in conv.attributes else 1
    parts = weight.reshape(groups, -1, *weight.shape[1:]) * ratio.reshape(groups, 1, -1, *ones)
    return np.asarray(parts.reshape(weight.shape))
