"""What keeps ONNX Runtime's own rewrites from changing which nodes compute on integers."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from fewbits.grouping import CARRIERS
from fewbits.models.onnx_gemm import is_transposed
from fewbits.models.onnx_kinds import kind
from fewbits.models.onnx_names import Names, array_of, insert_after

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})
# What ONNX Runtime fuses with a Gemm before it (GemmActivationFusion), or takes for a part of its quantiser.
_FUSED = frozenset(
    {"Clip", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh"}
    | {"ThresholdedRelu"}
)


class IsolateFloat(ir.passes.InPlacePass):
    """Keeps in float what reads codes but is not in `low`.

    ONNX Runtime quantises the float weight of a Conv or Gemm between codes by itself, with one scale for
    the whole tensor (WeightBiasQuantization), against the plan. It leaves alone what reads a per-channel
    DequantizeLinear; with equal scales the values are the same. And it takes every average pool between
    codes for one that its integer pool can do, also with dilation.
    """

    def __init__(self, low: Collection[str]) -> None:
        super().__init__()
        self._low = frozenset(low)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was isolated."""
        names = Names(model)
        isolated: dict[tuple[ir.Value, int], ir.Value] = {}
        modified = False
        for node in list(model.graph):
            coded = node.inputs[0] if node.inputs else None
            if coded is None or node.domain or node.name in self._low or not _is_decoded(coded):
                continue
            if node.op_type in _WEIGHTED and node.inputs[1] is not None and node.inputs[1].const_value is not None:
                channels = _input_channels(node)
            elif node.op_type == "AveragePool" and "dilations" in node.attributes:
                channels = 1
            else:
                continue
            if (coded, channels) not in isolated:
                isolated[coded, channels] = _isolated(model, names, coded, channels)
            node.replace_input_with(0, isolated[coded, channels])
            modified = True
        return ir.passes.PassResult(model, modified)


class SeparateActivations(ir.passes.InPlacePass):
    """Puts what gives the same values between each matrix product in `low` and what keeps it from codes.

    ONNX Runtime fuses a Gemm and its activation to a float FusedGemm before it looks for Gemms on codes; and it leaves
    a product in float if a quantiser and somebody else read it, or a quantiser and the model's output.
    """

    def __init__(self, low: Collection[str]) -> None:
        super().__init__()
        self._low = frozenset(low)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether any were separated."""
        names = Names(model)
        found = [node for node in model.graph if node.name in self._low and _must_be_separate(node)]
        for node in found:
            _separate(model, names, node)
        return ir.passes.PassResult(model, bool(found))


def _must_be_separate(node: ir.Node) -> bool:
    if node.op_type not in ("Gemm", "MatMul"):
        return False
    product = node.outputs[0]
    readers = [use.node.op_type for use in product.uses()]
    if len(readers) == 1 and not product.is_graph_output():
        return node.op_type == "Gemm" and readers[0] in _FUSED
    return "QuantizeLinear" in readers


def _separate(model: ir.Model, names: Names, node: ir.Node) -> None:
    product, uses = node.outputs[0], list(node.outputs[0].uses())
    name = str(product.name)
    if node.op_type == "Gemm":
        # To the same shape, which costs nothing.
        shape = names.constant(f"{node.name}.same_shape", np.array([-1, _output_channels(node)], np.int64))
        same = names.node("Reshape", [product, shape], f"{name}.same", f"{node.name}.to_same")
    else:
        same = names.node("Max", [product], f"{name}.same", f"{node.name}.to_same")
    result = same.outputs[0]
    result.type, result.shape = product.type, product.shape
    model.graph.insert_after(node, same)
    for use in uses:
        use.node.replace_input_with(use.idx, result)
    for index, output in enumerate(model.graph.outputs):
        if output is product:
            model.graph.outputs[index] = result
            product.name, result.name = result.name, name


class ShieldBodies(ir.passes.InPlacePass):
    """Keeps a DequantizeLinear from being moved behind a carrier whose result the body of an If, Loop or Scan reads.

    ONNX Runtime moves it behind reshapes, transposes and the like, and looks for whoever reads the result among the
    ordinary operands: its process dies on a body (seen with 1.31).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was shielded."""
        names = Names(model)
        modified = False
        for node in list(model.graph):
            if any(use.node.graph is not model.graph for value in node.outputs for use in value.uses()):
                first = _first_behind_codes(node)
                if first is not None and first.inputs[0] is not None:
                    first.replace_input_with(0, _isolated(model, names, first.inputs[0], 1))
                    modified = True
        return ir.passes.PassResult(model, modified)


def _isolated(model: ir.Model, names: Names, coded: ir.Value, channels: int) -> ir.Value:
    decoder = coded.producer()
    assert decoder is not None
    name = f"{decoder.name}.channels"
    if channels > 1:
        codes, *parameters = (value for value in decoder.inputs if value is not None)
        wide = [
            names.constant(f"{value.name}.channels", np.repeat(array_of(value).reshape(-1), channels))
            for value in parameters
        ]
        copy = names.node("DequantizeLinear", [codes, *wide], f"{coded.name}.channels", name, {"axis": 1})
    else:
        # One scale per channel is one scale here; the maximum of one tensor is that tensor, and nobody fuses it.
        copy = names.node("Max", [coded], f"{coded.name}.channels", name)
    copy.outputs[0].shape, copy.outputs[0].type = coded.shape, coded.type
    insert_after(model, coded, copy)
    return copy.outputs[0]


def _first_behind_codes(carrier: ir.Node) -> ir.Node | None:
    """The first of the carriers in a row that ends with `carrier`, if it reads a DequantizeLinear."""
    found: ir.Node | None = carrier
    while found is not None and kind(found.domain, found.op_type) in CARRIERS and found.inputs[0] is not None:
        if _is_decoded(found.inputs[0]):
            return found
        found = found.inputs[0].producer()
    return None


def _is_decoded(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _shape(value: ir.Value | None) -> list[int]:
    assert value is not None and value.const_value is not None
    return [int(size) for size in value.const_value.shape.numpy()]


def _input_channels(node: ir.Node) -> int:
    """The size of axis 1 of a product's first operand, from its weight."""
    shape = _shape(node.inputs[1])
    match node.op_type:
        case "Conv":
            groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
            return shape[1] * groups
        case "Gemm":
            return shape[1] if is_transposed(node) else shape[0]
        case _:
            return shape[0]


def _output_channels(gemm: ir.Node) -> int:
    """The number of columns that `gemm`, whose weight is codes, gives."""
    weight = gemm.inputs[1]
    assert weight is not None and weight.shape is not None
    columns = weight.shape[0 if is_transposed(gemm) else 1]
    assert isinstance(columns, int)
    return columns
