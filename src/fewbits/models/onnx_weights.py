"""Weights and biases as codes (`fewbits.models.weight_codes`) behind a DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fewbits.codes import name_of
from fewbits.data.batches import Array
from fewbits.errors import PlanError
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.affine import Affine, of_range
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import dequantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.models.onnx_gemm import is_transposed
from fewbits.models.onnx_names import Names, array_of
from fewbits.models.weight_codes import bias_codes, weight_affine, weight_codes

_Key = tuple[ir.Value, str, bytes]


class WeightWriter:
    """Puts codes in the place of weights; what several nodes share is stored once."""

    def __init__(self, model: ir.Model, names: Names) -> None:
        self._model = model
        self._names = names
        self._stored: dict[_Key, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def quantize(
        self,
        node: ir.Node,
        weight: ScaledFormat,
        axis: int,
        activation_scale: float,
        given: QTensor[Array] | None = None,
    ) -> None:
        """Quantise the weight of `node`, whose output channels are `axis`, and its bias if it has one; to the codes
        that are `given`, or to nearest. Raises PlanError if the codes are not of its shape."""
        source, bias_source = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert source is not None
        found = rounded_weight(node, array_of(source).astype(np.float32, copy=False), axis, given)
        values, what = found.values, "weight" if given is None else f"weight {name_of(given)}"
        bias = None
        if bias_source is not None:
            numbers = array_of(bias_source).astype(np.float32).reshape(-1)
            bias = np.broadcast_to(numbers, max(values.shape[axis], numbers.size))
        affine = weight_affine(values, weight, axis, bias, activation_scale, found.scale)
        # Only formats of 8 bits and less reach a runtime.
        node.replace_input_with(1, self._decoded(node, what, source, values, affine, np.dtype(np.int8)))
        if bias is not None and bias_source is not None:
            # The groups of a transposed convolution share their scales.
            repeats = bias.size // affine.scale.size if affine.scale.ndim else 1
            scales = np.tile(affine.scale, repeats) if affine.scale.ndim else affine.scale
            scale = np.broadcast_to(scales * np.float32(activation_scale), bias.shape).astype(np.float32)
            wide = Affine(affine.format, scale, np.zeros(bias.shape, np.int32), axis=0)
            node.replace_input_with(2, self._decoded(node, "bias", bias_source, bias, wide, np.dtype(np.int32)))

    def quantize_operand(self, node: ir.Node, position: int, format: IntFormat) -> None:
        """Quantise the constant operand of `node` at `position`, which is no weight, with one scale, as activations of
        this format have."""
        source = node.inputs[position]
        assert source is not None
        values = array_of(source).astype(np.float32)
        affine = of_range(float(values.min(initial=0)), float(values.max(initial=0)), format)
        dtype = np.dtype(np.int8 if format.signed else np.uint8)
        node.replace_input_with(position, self._decoded(node, "constant", source, values, affine, dtype))

    def _decoded(
        self,
        node: ir.Node,
        what: str,
        source: ir.Value,
        values: NDArray[np.float32],
        affine: Affine,
        dtype: np.dtype[np.integer],
    ) -> ir.Value:
        key = (source, f"{what} {dtype}", affine.scale.tobytes())
        what = what.partition(" ")[0]
        if key not in self._stored:
            codes = bias_codes(values, affine.scale) if what == "bias" else weight_codes(values, affine)
            self._stored[key] = (
                self._names.constant(f"{node.name}.{what}.codes", codes.astype(dtype)),
                self._names.constant(f"{node.name}.{what}.scale", affine.scale),
                self._names.constant(f"{node.name}.{what}.zero_point", affine.zero_point.astype(dtype)),
            )
        attributes = {} if affine.axis is None else {"axis": affine.axis}
        name = f"{node.name}.{what}"
        decoder = self._names.node(
            "DequantizeLinear", self._stored[key], f"{name}.decoded", f"{name}.dequantize", attributes
        )
        decoder.outputs[0].shape = ir.Shape(values.shape)
        decoder.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self._model.graph.insert_before(node, decoder)
        return decoder.outputs[0]


@dataclass(frozen=True, slots=True, eq=False)
class RoundedWeight:
    """The `values` of a weight, and the `scale` of its output channels if they are on its steps already."""

    values: NDArray[np.float32]
    scale: NDArray[np.float32] | None = None


def rounded_weight(
    node: ir.Node, values: NDArray[np.float32], axis: int, given: QTensor[Array] | None
) -> RoundedWeight:
    """What the codes `given` for the weight of `node` stand for, which have its output channels, `axis` of it, first;
    its own `values` if there are none. Raises PlanError if they are not of its shape."""
    if given is None:
        return RoundedWeight(values)
    rows = np.moveaxis(dequantize(given).astype(np.float32), 0, axis)
    if rows.shape != values.shape:
        raise PlanError(
            f"the plan's codes for the weight of {node.name} are of shape {rows.shape}, the weight is of "
            f"{values.shape}; they were made for another model"
        )
    return RoundedWeight(rows, given.scale.reshape(-1).astype(np.float32))


def decoded_weight(node: ir.Node, operand: ScaledFormat, given: QTensor[Array] | None) -> Array:
    """What codes leave of the weight of `node`: those that are `given`, or rounding to nearest. Raises PlanError if the
    codes are not of its shape."""
    weight, axis = array_of(node.inputs[1]).astype(np.float32), output_axis(node)
    if given is not None:
        return rounded_weight(node, weight, axis, given).values
    affine = weight_affine(weight, operand, axis, None, 1.0)
    scale = affine.scale.reshape([-1 if place == affine.axis else 1 for place in range(weight.ndim)])
    return (weight_codes(weight, affine) * scale).astype(np.float32)


def output_axis(node: ir.Node) -> int:
    """The axis of a weight that counts output channels, in a transposed convolution those of one of its groups."""
    return 0 if node.op_type == "Conv" or is_transposed(node) else 1
