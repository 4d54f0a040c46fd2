"""A recipe as the plan that inference uses: what was trained in fp8 is served in the same fp8."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fewbits.errors import PlanError
from fewbits.formats.floating import BF16, FP16, FloatFormat
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.plan import Choice, Plan
from fewbits.training.cell import Cell
from fewbits.training.lowering import lowering_of, scheduled
from fewbits.training.table import Place, Reach


def plan_of(model: nn.Module, names: Mapping[str, str] | None = None, *, step: int = 0, model_sha256: str = "") -> Plan:
    """The plan of a lowered model: every low layer in the formats of its weight and activation in the forward pass.

    `names` says which group of the plan a layer is (its own name, if left out); `step` at which a schedule stands;
    `model_sha256` for which model file the plan is meant. Ranges are found at every call, as they are in training.
    Raises PlanError for formats that no scheme of inference has.
    """
    own = lowering_of(model)
    choices = {}
    for layer in own.layers:
        if not layer.low:
            continue
        recipe = scheduled(own.recipe, step, own.planned, own.curvature.get(layer.name, 0.0))
        weight, activation = recipe.cell(Place.WEIGHT_FORWARD), recipe.cell(Place.ACTIVATION_FORWARD)
        if recipe.reach in (Reach.AMP, Reach.PURE):
            activation = weight
        scheme = _scheme(weight, activation, recipe.name)
        choices[(names or {}).get(layer.name, layer.name)] = Choice(str(scheme), f"trained by the recipe {recipe.name}")
    return Plan(model_sha256, choices, {}, notes=(str(own.recipe),))


def _scheme(weight: Cell, activation: Cell, name: str) -> Scheme:
    if weight.format == activation.format and isinstance(weight.format, FloatFormat) and weight.format in (BF16, FP16):
        return Scheme(weight.format, weight.format)
    if weight.is_identity:
        return Scheme()
    if isinstance(weight.format, ScaledFormat) and activation.is_identity:
        return Scheme(weight.format)
    if isinstance(weight.format, ScaledFormat) and isinstance(activation.format, ScaledFormat):
        return Scheme(weight.format, activation.format, dynamic=True)
    raise PlanError(
        f"the recipe {name} computes with {weight.format_text} and {activation.format_text}, which no scheme of "
        "inference has: operands have scales both, or are bf16 or fp16 both, or the weight alone has scales"
    )
