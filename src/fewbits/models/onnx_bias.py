"""Bias correction as a graph pass: what rounding the weight adds to the mean of an output is taken from the bias.

Source: Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.2; means of inputs are those of calibration
data here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from fewbits.codes import Codes
from fewbits.data.batches import Array
from fewbits.errors import PlanError
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.grouping import LAYERS, Group
from fewbits.means import parse
from fewbits.models.onnx_gemm import is_transposed
from fewbits.models.onnx_names import Names, array_of
from fewbits.models.onnx_weights import decoded_weight
from fewbits.refine.bias_correction import correct_analytically
from fewbits.refine.layer import Layer

_BIAS: Final = 2


class CorrectBiases(ir.passes.InPlacePass):
    """Corrects the biases of the groups that `schemes` names, all with static codes, as far as `means` (tensor → means
    of its channels, as text) has what they read; `codes`: those of weights that do not round to nearest, by node."""

    def __init__(
        self, groups: Mapping[str, Group], schemes: Mapping[str, Scheme], means: Mapping[str, str], codes: Codes
    ) -> None:
        super().__init__()
        self._codes = codes
        self._groups = groups
        self._schemes = schemes
        self._means = means

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether any bias was corrected.

        Raises:
            PlanError: there are not as many means as the tensor has channels, or codes do not fit.
        """
        names = Names(model)
        nodes = {str(node.name): node for node in model.graph}
        modified = False
        for name, scheme in self._schemes.items():
            group = self._groups[name]
            if not group.weight or group.kind not in LAYERS or group.operands[0] not in self._means:
                continue
            if "transA" in nodes[name].attributes and nodes[name].attributes["transA"].as_int():
                # The means are those of the last axis.
                continue
            assert isinstance(scheme.weight, ScaledFormat)
            rounded = decoded_weight(nodes[name], scheme.weight, self._codes.get(name))
            shift = _shift(nodes[name], rounded, group.operands[0], parse(self._means[group.operands[0]]))
            modified |= _add(names, group, nodes, shift)
        return ir.passes.PassResult(model, modified)


def _shift(node: ir.Node, rounded: Array, tensor: str, means: Array) -> Array:
    """What is to be added to the output channels of `node` whose weight became `rounded`."""
    values = array_of(node.inputs[1]).astype(np.float32)
    if node.op_type != "Conv" and not is_transposed(node):
        values, rounded = values.T, rounded.T
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    layer = Layer(values, np.zeros(len(values)), groups)
    if layer.inputs != len(means):
        raise PlanError(
            f"the plan has the means of {len(means)} channels of {tensor}, which has {layer.inputs}; it was made for "
            "another model"
        )
    return correct_analytically(layer, rounded, means).bias


def _add(names: Names, group: Group, nodes: Mapping[str, ir.Node], shift: Array) -> bool:
    """Add `shift` to the bias of `group`; whether it has one, or can have."""
    anchor = nodes[group.name]
    if anchor.op_type == "MatMul":
        if not group.bias:
            return False
        holders = (nodes[name] for name in group.nodes)
        holder, place = next(
            (node, place) for node in holders for place, value in enumerate(node.inputs) if _is(value, group.bias)
        )
    else:
        holder, place = anchor, _BIAS
        if len(anchor.inputs) <= _BIAS:
            anchor.resize_inputs(_BIAS + 1)
    given = holder.inputs[place]
    before = np.zeros(len(shift)) if given is None else array_of(given)
    name = f"{group.name}.bias" if given is None else f"{given.name}.corrected"
    holder.replace_input_with(place, names.constant(name, (before + shift).astype(np.float32)))
    return True


def _is(value: ir.Value | None, name: str) -> bool:
    return value is not None and value.name == name
