"""Q/DQ pairs around what computes in low precision (oneDNN method, Rodriguez et al. 2018).

Weights are stored as codes behind one DequantizeLinear, biases as int32 with the scale
``s_x * s_w``, activations pass a QuantizeLinear and a DequantizeLinear; a runtime fuses these with
the product between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import numpy as np
import onnx_ir as ir

from fewbits.codes import Codes
from fewbits.errors import PlanError
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.affine import Affine, of_range
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.grouping import Group
from fewbits.models.onnx_absorb import absorbed, absorbed_ranges
from fewbits.models.onnx_names import Names, insert_after
from fewbits.models.onnx_weights import WeightWriter, output_axis
from fewbits.placement import Placement, formats

_Pairs = Mapping[tuple[str, IntFormat], ir.Value]


class InsertQuantizers(ir.passes.InPlacePass):
    """Quantises weights, biases and activations of the groups that `schemes` names.

    `ranges` gives the range of every tensor that `placement` names, `codes` those of weights that do not round to
    nearest, by node.
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        schemes: Mapping[str, Scheme],
        placement: Placement,
        ranges: Mapping[str, tuple[float, float]],
        codes: Codes,
    ) -> None:
        super().__init__()
        self._codes = codes
        self._groups = groups
        self._schemes = schemes
        self._placement = placement
        self._ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was quantised.

        Raises:
            PlanError: a range is missing or is none, or codes do not fit.
        """
        names = Names(model)
        nodes = {str(node.name): node for node in model.graph}
        values = {str(value.name): value for value in model.graph.inputs}
        values |= {str(value.name): value for node in nodes.values() for value in node.outputs if value.name}
        ranges = absorbed_ranges(model.graph, self._placement, self._ranges)
        weights = WeightWriter(model, names)
        for name, scheme in self._schemes.items():
            group = self._groups[name]
            if group.weight and isinstance(scheme.weight, ScaledFormat) and scheme.activation is not None:
                activation = affine_of(group.operands[0], integer(scheme.activation), ranges)
                axis = output_axis(nodes[name])
                weights.quantize(nodes[name], scheme.weight, axis, float(activation.scale), self._codes.get(name))
            elif group.constant:
                weights.quantize_operand(nodes[name], *_constant(nodes[name], group, scheme))
        wanted = [*self._placement.writes.items(), *((name, f) for (_, name), f in self._placement.reads.items())]
        affines = {(name, format): affine_of(name, format, ranges) for name, format in wanted}
        pairs = {
            (name, format): _pair(model, names, values[name], name, affine)
            for (name, format), affine in affines.items()
        }
        self._rewire(nodes, values, pairs)
        for tensor, format in self._placement.writes.items():
            _absorb(values[tensor], affines[tensor, format])
        return ir.passes.PassResult(model, bool(pairs))

    def _rewire(self, nodes: Mapping[str, ir.Node], values: Mapping[str, ir.Value], pairs: _Pairs) -> None:
        for (name, tensor), format in self._placement.reads.items():
            for index, value in enumerate(nodes[name].inputs):
                if value is values[tensor]:
                    nodes[name].replace_input_with(index, pairs[tensor, format])
        for tensor, format in self._placement.writes.items():
            # Everybody sees the quantised value, also a pair of another format.
            coded = pairs[tensor, format]
            for use in list(values[tensor].uses()):
                if use.node is not _quantizer(coded):
                    use.node.replace_input_with(use.idx, coded)


def _constant(node: ir.Node, group: Group, scheme: Scheme) -> tuple[int, IntFormat]:
    """Which operand of `node` is the constant of `group`, and what it becomes."""
    places = (place for place, value in enumerate(node.inputs) if value is not None and value.name == group.constant)
    position = next(places)
    return position, formats(scheme)[position]


def _quantizer(coded: ir.Value) -> ir.Node:
    decoder = coded.producer()
    assert decoder is not None and decoder.inputs[0] is not None
    quantizer = decoder.inputs[0].producer()
    assert quantizer is not None
    return quantizer


def _absorb(value: ir.Value, affine: Affine) -> None:
    """Let the quantiser of `value` read what is before its activation, if it clips at least as tightly."""
    activation = value.producer()
    if activation is not None and absorbed(activation, affine):
        for use in list(value.uses()):
            use.node.replace_input_with(use.idx, activation.inputs[0])


def affine_of(tensor: str, format: IntFormat, ranges: Mapping[str, tuple[float, float]]) -> Affine:
    """Scale and zero point of `tensor` in `format`. Raises PlanError if `ranges` has no range for it."""
    if tensor not in ranges:
        raise PlanError(f"the plan has no range for the tensor {tensor}; tune again, or calibrate with this model")
    low, high = ranges[tensor]
    if not (isfinite(low) and isfinite(high) and low <= high):
        raise PlanError(f"the plan's range for the tensor {tensor} is [{low}, {high}]; give a finite low <= high")
    return of_range(low, high, format)


def _pair(model: ir.Model, names: Names, value: ir.Value, tensor: str, affine: Affine) -> ir.Value:
    prefix, dtype = f"{tensor}.{affine.format}", np.int8 if affine.format.signed else np.uint8
    scale = names.constant(f"{prefix}.scale", affine.scale)
    zero = names.constant(f"{prefix}.zero_point", affine.zero_point.astype(dtype))
    coder = names.node("QuantizeLinear", [value, scale, zero], f"{prefix}.codes", f"{prefix}.quantize")
    codes = coder.outputs[0]
    codes.shape, codes.type = value.shape, zero.type
    decoder = names.node("DequantizeLinear", [codes, scale, zero], f"{prefix}.decoded", f"{prefix}.dequantize")
    decoder.outputs[0].shape, decoder.outputs[0].type = value.shape, value.type
    insert_after(model, value, coder, decoder)
    return decoder.outputs[0]
