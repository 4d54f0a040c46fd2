"""SmoothQuant as a graph pass: factors move from the channels of an activation into the weights that read them.

X W = (X / s) (s W), with one factor s for each input channel (Xiao et al. 2023, equation 3): what is hard to quantise
in the activation, channels much larger than the others, is shared with the weight. With the weight alone in codes the
same makes those weights finer that meet large inputs (AWQ, Lin et al. 2023, section 3.2), with factors of its own. The
division is folded into the LayerNormalization that gives the activation where nobody else reads it; otherwise it is a
multiplication, which runtimes fuse with the quantiser behind it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.errors import PlanError
from fewbits.formats.scheme import Scheme
from fewbits.grouping import Group
from fewbits.models.onnx_gemm import is_transposed
from fewbits.models.onnx_names import Names, array_of, insert_after
from fewbits.plan import scaled, smoothed
from fewbits.smoothing import parse


class SmoothOperands(ir.passes.InPlacePass):
    """Smooths the groups that `schemes` says so of; `factors`: tensor → factors of its channels, as text, for groups
    with static codes, `scaling` for those whose weight alone is in codes."""

    def __init__(
        self,
        groups: Mapping[str, Group],
        schemes: Mapping[str, Scheme],
        factors: Mapping[str, str],
        scaling: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._groups = {groups[name].name: scheme.is_static for name, scheme in schemes.items() if scheme.smoothed}
        self._factors = {True: factors, False: scaling}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything was smoothed.

        Raises:
            PlanError: factors are missing, or not as many as the tensor has channels.
        """
        names = Names(model)
        nodes = {str(node.name): node for node in model.graph}
        readers: dict[tuple[ir.Value, bool], list[ir.Node]] = {}
        for name, static in self._groups.items():
            node = nodes[name]
            source = node.inputs[0]
            assert source is not None
            readers.setdefault((source, static), []).append(node)
        for (source, static), wanted in readers.items():
            factors = self._of(source, wanted, static=static)
            left = (smoothed if static else scaled)(str(source.name))
            for node in wanted:
                weight = node.inputs[1]
                assert weight is not None
                larger = _larger(array_of(weight), factors, rows=not is_transposed(node))
                node.replace_input_with(1, names.constant(f"{weight.name}.smoothed", larger))
            if len(list(source.uses())) == len(wanted) and _fold(names, source, factors, left):
                continue
            smaller = _divided(model, names, source, factors, left)
            for node in wanted:
                node.replace_input_with(0, smaller)
        return ir.passes.PassResult(model, bool(readers))

    def _of(self, source: ir.Value, readers: list[ir.Node], *, static: bool) -> Array:
        if source.name not in self._factors[static]:
            raise PlanError(f"the plan has no factors to smooth the tensor {source.name} with; tune again")
        factors = parse(self._factors[static][str(source.name)])
        for node in readers:
            weight = node.inputs[1]
            assert weight is not None
            depth = array_of(weight).shape[1 if is_transposed(node) else 0]
            if len(factors) != depth:
                raise PlanError(
                    f"the plan has {len(factors)} factors to smooth the tensor {source.name} with, which has {depth} "
                    "channels; it was made for another model"
                )
        return factors


def _larger(weight: Array, factors: Array, *, rows: bool) -> Array:
    return np.asarray(weight * (factors[:, None] if rows else factors[None, :]), np.float32)


def _fold(names: Names, source: ir.Value, factors: Array, left: str) -> bool:
    """Divide the gain and bias of the LayerNormalization that gives `source`, which is called `left` then; whether
    there is one that can be."""
    norm = source.producer()
    if norm is None or norm.op_type != "LayerNormalization" or norm.domain or source.is_graph_output():
        return False
    gain, bias = norm.inputs[1], norm.inputs[2] if len(norm.inputs) > 2 else None
    parts = [value for value in (gain, bias) if value is not None]
    if any(value.const_value is None or array_of(value).shape != factors.shape for value in parts):
        return False
    for index, value in enumerate(norm.inputs):
        if index > 0 and value is not None:
            norm.replace_input_with(index, names.constant(f"{value.name}.smoothed", array_of(value) / factors))
    source.name = left
    return True


def _divided(model: ir.Model, names: Names, source: ir.Value, factors: Array, left: str) -> ir.Value:
    inverse = names.constant(f"{left}.inverse_factors", (1 / factors).astype(np.float32))
    node = names.node("Mul", [source, inverse], left, f"{left}.multiply")
    node.outputs[0].shape, node.outputs[0].type = source.shape, source.type
    insert_after(model, source, node)
    return node.outputs[0]
