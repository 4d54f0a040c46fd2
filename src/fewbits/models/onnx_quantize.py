"""Q/DQ pairs around what computes in low precision (oneDNN method, Rodriguez et al. 2018).

Weights are stored as codes behind one DequantizeLinear, biases as int32 with the scale
``s_x * s_w``, activations pass a QuantizeLinear and a DequantizeLinear; a runtime fuses these with
the product between them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from fewbits.errors import PlanError
from fewbits.formats.affine import Affine, asymmetric, quantize, symmetric
from fewbits.formats.integer import IntFormat
from fewbits.formats.scheme import Granularity, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.models.onnx_fold import array_of
from fewbits.models.onnx_names import constant
from fewbits.placement import Placement

_DTYPES = {"int8": np.int8, "int8r": np.int8, "uint8": np.uint8}
_BIAS_LIMIT = 2.0**31 - 2**8


class InsertQuantizers(ir.passes.InPlacePass):
    """Quantises weights, biases and activations of the groups that `schemes` names."""

    def __init__(
        self,
        graph: Graph,
        groups: Mapping[str, Group],
        schemes: Mapping[str, Scheme],
        placement: Placement,
        ranges: Mapping[str, tuple[float, float]],
    ) -> None:
        super().__init__()
        self._graph = graph
        self._groups = groups
        self._schemes = schemes
        self._placement = placement
        self._ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was quantised."""
        nodes = {str(node.name): node for node in model.graph}
        for name, scheme in self._schemes.items():
            if self._groups[name].weight:
                self._weights(model, nodes[name], scheme)
        values = _values(model)
        pairs: dict[tuple[str, IntFormat], ir.Value] = {}
        for tensor, format in self._placement.writes.items():
            pairs[tensor, format] = self._pair(model, values[tensor], tensor, format)
        for (_, tensor), format in self._placement.reads.items():
            if (tensor, format) not in pairs:
                pairs[tensor, format] = self._pair(model, values[tensor], tensor, format)
        self._rewire(model, nodes, values, pairs)
        return ir.passes.PassResult(model, bool(pairs))

    def _rewire(
        self,
        model: ir.Model,
        nodes: Mapping[str, ir.Node],
        values: Mapping[str, ir.Value],
        pairs: Mapping[tuple[str, IntFormat], ir.Value],
    ) -> None:
        for (name, tensor), format in self._placement.reads.items():
            # A pair made from codes of another format reads the dequantised value, not the raw one.
            _replace_input(nodes[name], values[tensor], pairs[tensor, format])
        for tensor, format in self._placement.writes.items():
            raw, coded = values[tensor], pairs[tensor, format]
            quantizer = coded.producer().inputs[0].producer()  # type: ignore[union-attr]
            for use in list(raw.uses()):
                if use.node is not quantizer:
                    use.node.replace_input_with(use.idx, coded)
            self._isolate(model, nodes, coded)
            if raw.is_graph_output():
                raw.name = f"{tensor}.float"
                coded.name = tensor
                outputs = model.graph.outputs
                outputs[outputs.index(raw)] = coded

    def _isolate(self, model: ir.Model, nodes: Mapping[str, ir.Node], coded: ir.Value) -> None:
        """Let float products that read codes dequantise them along the channels, with equal scales.

        ONNX Runtime quantises the float weight of a Conv or Gemm between codes by itself, with one scale
        for the whole tensor (WeightBiasQuantization), against the plan. It leaves alone what reads a
        per-channel DequantizeLinear; the values are the same.
        """
        decoder = coded.producer()
        assert decoder is not None
        isolated: dict[int, ir.Value] = {}
        for use in list(coded.uses()):
            name = str(use.node.name)
            group = self._groups.get(name)
            if group is None or name in self._schemes or use.idx != 0 or use.node is not nodes[name]:
                continue
            if group.kind not in (Kind.CONV, Kind.CONV_TRANSPOSE, Kind.GEMM):
                continue
            channels = _input_channels(use.node)
            if channels == 0:
                continue
            if channels not in isolated:
                codes, scale, zero = (value for value in decoder.inputs if value is not None)
                wide = [
                    constant(model, f"{value.name}.channels", np.repeat(array_of(value).reshape(-1), channels))
                    for value in (scale, zero)
                ]
                copy = ir.node("DequantizeLinear", [codes, *wide], {"axis": 1}, name=f"{decoder.name}.channels")
                isolated[channels] = copy.outputs[0]
                isolated[channels].name = f"{coded.name}.channels"
                isolated[channels].shape, isolated[channels].type = coded.shape, coded.type
                model.graph.insert_after(decoder, copy)
            use.node.replace_input_with(0, isolated[channels])

    def _affine(self, tensor: str, format: IntFormat) -> Affine:
        if tensor not in self._ranges:
            raise PlanError(f"the plan has no range for the tensor {tensor}; tune again, or calibrate with this model")
        low, high = self._ranges[tensor]
        if format.signed:
            return symmetric(np.array(max(abs(low), abs(high)), np.float32), format)
        return asymmetric(low, high, format)

    def _pair(self, model: ir.Model, value: ir.Value, tensor: str, format: IntFormat) -> ir.Value:
        affine = self._affine(tensor, format)
        scale = constant(model, f"{tensor}.{format}.scale", affine.scale)
        zero = constant(model, f"{tensor}.{format}.zero_point", affine.zero_point.astype(_DTYPES[str(format)]))
        coder = ir.node("QuantizeLinear", [value, scale, zero], name=f"{tensor}.{format}.quantize", num_outputs=1)
        coded = coder.outputs[0]
        coded.name, coded.shape = f"{tensor}.{format}.codes", value.shape
        coded.type = ir.TensorType(zero.dtype or ir.DataType.UINT8)
        decoder = ir.node("DequantizeLinear", [coded, scale, zero], name=f"{tensor}.{format}.dequantize", num_outputs=1)
        decoded = decoder.outputs[0]
        decoded.name, decoded.shape, decoded.type = f"{tensor}.{format}.decoded", value.shape, value.type
        producer = value.producer()
        if producer is None:
            model.graph.insert_before(model.graph[0], [coder, decoder])
        else:
            model.graph.insert_after(producer, [coder, decoder])
        return decoded

    def _weights(self, model: ir.Model, node: ir.Node, scheme: Scheme) -> None:
        assert scheme.weight is not None and scheme.activation is not None
        group = self._groups[str(node.name)]
        axis = _output_axis(group.kind, bool(self._graph.node[group.name].attributes.get("transB")))
        weight = array_of(node.inputs[1]).astype(np.float32)
        activation = self._affine(group.operands[0], scheme.activation.format)
        bias_value = node.inputs[2] if len(node.inputs) > 2 else None
        bias = None if bias_value is None else array_of(bias_value).astype(np.float32).reshape(-1)
        affine = weight_affine(weight, scheme, axis, bias, float(activation.scale))
        codes = quantize(weight, affine).astype(_DTYPES[str(scheme.weight.format)])
        node.replace_input_with(1, self._decoded(model, node, "weight", codes, affine))
        if bias is not None:
            scale = np.broadcast_to(affine.scale * activation.scale, bias.shape).astype(np.float32)
            bias_codes = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
            bias_affine = Affine(affine.format, scale, np.zeros(bias.shape, np.int32), axis=0)
            node.replace_input_with(2, self._decoded(model, node, "bias", bias_codes, bias_affine))

    def _decoded(
        self,
        model: ir.Model,
        node: ir.Node,
        what: str,
        codes: np.ndarray[tuple[int, ...], np.dtype[np.integer]],
        affine: Affine,
    ) -> ir.Value:
        stored = constant(model, f"{node.name}.{what}.codes", codes)
        scale = constant(model, f"{node.name}.{what}.scale", affine.scale)
        zero = constant(model, f"{node.name}.{what}.zero_point", affine.zero_point.astype(codes.dtype))
        attributes = {} if affine.axis is None else {"axis": affine.axis}
        name = f"{node.name}.{what}.dequantize"
        decoder = ir.node("DequantizeLinear", [stored, scale, zero], attributes, name=name, num_outputs=1)
        decoded = decoder.outputs[0]
        decoded.name = f"{node.name}.{what}.decoded"
        decoded.shape, decoded.type = ir.Shape(codes.shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.insert_before(node, decoder)
        return decoded


def weight_affine(
    weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    scheme: Scheme,
    axis: int,
    bias: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None,
    activation_scale: float,
) -> Affine:
    """Scales of a weight: per output channel (along `axis`) or for the whole tensor.

    A channel's scale grows where its int32 bias would overflow, and a channel of zeros takes the
    smallest scale of its neighbours, so that its bias keeps its precision.
    """
    assert scheme.weight is not None
    per_channel = scheme.weight.granularity is Granularity.CHANNEL
    others = tuple(i for i in range(weight.ndim) if i != axis)
    absmax = np.abs(weight).max(axis=others) if per_channel else np.abs(weight).max(keepdims=False)
    absmax = np.asarray(absmax, np.float32)
    positive = absmax[absmax > 0]
    absmax = np.where(absmax > 0, absmax, positive.min() if positive.size else np.float32(1)).astype(np.float32)
    affine = symmetric(absmax, scheme.weight.format, axis if per_channel else None)
    if bias is None:
        return affine
    least = np.abs(bias) / (np.float32(activation_scale) * np.float32(_BIAS_LIMIT))
    least = least if per_channel else least.max()
    return Affine(affine.format, np.maximum(affine.scale, least).astype(np.float32), affine.zero_point, affine.axis)


def _input_channels(node: ir.Node) -> int:
    """The size of axis 1 of a product's first operand, from its weight; 0 where it is not known."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        return 0
    shape = [int(size) for size in weight.const_value.shape.numpy()]
    match node.op_type:
        case "Conv":
            groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
            return shape[1] * groups
        case "Gemm":
            transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
            return shape[1] if transposed else shape[0]
        case _:
            return shape[0]


def _output_axis(kind: Kind, transposed: bool) -> int:
    return 0 if kind is Kind.CONV or transposed else 1


def _values(model: ir.Model) -> dict[str, ir.Value]:
    found = {str(value.name): value for value in model.graph.inputs}
    for node in model.graph:
        found |= {str(value.name): value for value in node.outputs if value.name}
    return found


def _replace_input(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    for index, value in enumerate(node.inputs):
        if value is old:
            node.replace_input_with(index, new)
