"""What groups cost in each scheme by a model of hardware: the same table as measured costs, in the model's unit.

Products alone are counted. The output of one counts in the width of its own first operand, since what reads it later
is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fewbits.costs.key import RegionCost
from fewbits.costs.layers import layer_spec
from fewbits.costs.model import CostModel, LayerSpec, Width, Widths
from fewbits.costs.table import CostTable
from fewbits.formats.floating import FP32 as FLOAT
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.graph import Graph
from fewbits.grouping import Group

PREDICTED: Final = "predicted"


def widths(scheme: Scheme) -> Widths:
    """What a cost model is asked for a layer in `scheme`."""
    weight: Width = FLOAT if scheme.weight is None else scheme.weight
    activation: Width = FLOAT if scheme.activation is None else scheme.activation
    return Widths(weight, activation, activation)


def supports(model: CostModel, group: Group, scheme: Scheme) -> bool:
    """Whether `model` has a cost for `group` in `scheme`."""
    asked = widths(scheme)
    return model.supports(str(group.kind), asked.w, asked.a)


def predicted(
    model: CostModel, target: str, graph: Graph, groups: Sequence[Group], schemes: Mapping[str, Sequence[Scheme]]
) -> CostTable:
    """The cost of every product among `groups` in the `schemes` of its name; a scheme that `model` has no cost for, or
    that costs no less than one with more bits, has a refusal.

    Raises:
        ModelError: a shape is unknown.
        ToolError: a plug-in's model raises or gives what is no cost.
    """
    costs: dict[str, Mapping[str, RegionCost]] = {}
    for group in groups:
        if group.is_product:
            layer = layer_spec(graph, group)
            found = {
                scheme: _cost(model, layer, scheme) for scheme in schemes[group.name] if supports(model, group, scheme)
            }
            costs[group.name] = {
                str(scheme): _priced(found[scheme], _better(scheme, found))
                if scheme in found
                else _priced(0.0, "the cost model has no cost for it")
                for scheme in schemes[group.name]
            }
    return CostTable(target, costs)


def _cost(model: CostModel, layer: LayerSpec, scheme: Scheme) -> float:
    asked = widths(scheme)
    return model.cost(layer, asked.w, asked.a, asked.o)


def _better(scheme: Scheme, costs: Mapping[Scheme, float]) -> str:
    """Why `scheme` can be in no best plan: another one is as cheap and has no fewer bits in either operand, so that it
    harms less; "" if there is none."""
    for other, cost in costs.items():
        if other != scheme and cost <= costs[scheme] and _holds(other, scheme):
            return f"it costs no less than {other}, which has more bits"
    return ""


def _holds(wide: Scheme, narrow: Scheme) -> bool:
    return all(more >= bits for more, bits in zip(_bits(wide), _bits(narrow), strict=True))


def _bits(scheme: Scheme) -> tuple[int, int]:
    weight, activation = (
        operand.element.bits if isinstance(operand, ScaledFormat) else FLOAT.bits
        for operand in (scheme.weight, scheme.activation)
    )
    return weight, activation


def _priced(cost: float, refusal: str) -> RegionCost:
    return RegionCost(0.0, cost, 0.0, "", PREDICTED, refusal, "")
