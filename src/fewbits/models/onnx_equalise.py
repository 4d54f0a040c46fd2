"""Cross-layer equalisation as a graph pass: channels between two products are scaled, the function stays.

Source: Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.errors import PlanError
from fewbits.graph import Graph
from fewbits.grouping import group
from fewbits.models.onnx_gemm import is_transposed
from fewbits.models.onnx_names import Names, array_of
from fewbits.rescaling import Junction, junctions
from fewbits.smoothing import parse

_NORM_GAIN, _NORM_BIAS = 1, 2


class EqualiseChannels(ir.passes.InPlacePass):
    """Divides the channels of the tensors that `factors` names, as text, by them; `graph` is the model's own."""

    def __init__(self, graph: Graph, factors: Mapping[str, str]) -> None:
        super().__init__()
        self._junctions = {one.tensor: one for one in junctions(graph, group(graph))}
        self._factors = factors

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was scaled.

        Raises:
            PlanError: a tensor is not between products, or has another number of channels.
        """
        names = Names(model)
        nodes = {str(node.name): node for node in model.graph}
        for tensor, text in self._factors.items():
            if tensor not in self._junctions:
                raise PlanError(
                    f"the plan equalises the channels of {tensor}, which is not between products in this model; it was "
                    "made for another one"
                )
            _scale(names, nodes, self._junctions[tensor], parse(text))
        return ir.passes.PassResult(model, bool(self._factors))


def _scale(names: Names, nodes: Mapping[str, ir.Node], junction: Junction, factors: Array) -> None:
    anchor = nodes[junction.giver.name]
    channels = array_of(anchor.inputs[1]).shape[0 if anchor.op_type == "Conv" or is_transposed(anchor) else -1]
    if channels != len(factors):
        raise PlanError(
            f"the plan has {len(factors)} factors for the channels of {junction.tensor}, which has {channels}; it was "
            "made for another model"
        )
    chain = [nodes[name] for name in junction.giver.nodes]
    norm = next((node for node in chain if node.op_type == "BatchNormalization"), None)
    if norm is not None:
        for place in (_NORM_GAIN, _NORM_BIAS):
            _put(names, norm, place, array_of(norm.inputs[place]) / factors)
    else:
        _divide(names, chain, junction.giver.bias, factors)
    for reader in junction.readers:
        node = nodes[reader.name]
        _put(names, node, 1, _columns_times(node, array_of(node.inputs[1]), factors))


def _divide(names: Names, chain: list[ir.Node], bias: str, factors: Array) -> None:
    anchor = chain[0]
    weight = array_of(anchor.inputs[1])
    outputs_first = anchor.op_type == "Conv" or is_transposed(anchor)
    _put(names, anchor, 1, weight / (factors.reshape(-1, *(1,) * (weight.ndim - 1)) if outputs_first else factors))
    for node in chain:
        for place, value in enumerate(node.inputs):
            if bias and value is not None and value.name == bias:
                _put(names, node, place, array_of(value) / factors)


def _columns_times(node: ir.Node, weight: Array, factors: Array) -> Array:
    if node.op_type != "Conv":
        return np.asarray(weight * (factors if is_transposed(node) else factors[:, None]))
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    each = factors.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    return np.asarray((parts * each).reshape(weight.shape))


def _put(names: Names, node: ir.Node, place: int, values: Array) -> None:
    value = node.inputs[place]
    assert value is not None
    alone, name, new = len(list(value.uses())) == 1, value.name, values.astype(np.float32)
    # What only `node` reads keeps its name, by which everybody knows it (`Model.weight`).
    if alone and value.is_initializer():
        value.const_value = ir.tensor(new, name=name)
        return
    made = names.constant(f"{name}.equalised", new)
    node.replace_input_with(place, made)
    if alone:
        value.name = f"{name}.plain"
        made.name = name
