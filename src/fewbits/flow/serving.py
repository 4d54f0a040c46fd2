"""The CPU that will serve: what its integer products can bear, and which layers of a plan they would cut.

See `fewbits.saturation` for what is cut, and why 7 bits for weights are always safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from fewbits.codes import beside
from fewbits.data import DataSource, open_data
from fewbits.data.batches import Array
from fewbits.data.padding import batch_size, pad
from fewbits.errors import UsageError
from fewbits.flow.remedies.products import as_product
from fewbits.formats.integer import INT8R, UINT8, IntFormat
from fewbits.formats.numerics.affine import of_range
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.graph import Kind
from fewbits.grouping import LAYERS, Group, group, has_constant_first
from fewbits.models import ModelSource, open_model
from fewbits.models.protocol import Model
from fewbits.plan import Plan, smoothed
from fewbits.saturation import Isa, may_saturate, saturated
from fewbits.smoothing import parse
from fewbits.space import Menu, Refusal

_SEVEN: Final = IntFormat(7, signed=True, restricted=True)
_SAMPLES: Final = 8
_ROWS: Final = 64
_CUT: Final = "sums of two 8-bit products do not fit into 16 bits there, so its weights get 7"


@dataclass(frozen=True, slots=True)
class SaturationRow:
    """One product of a plan: whether sums of two of its products may be cut on a CPU without VNNI, whatever it reads,
    and the share of its outputs that were on the given data (negative: no data)."""

    group: str
    kind: str
    scheme: str
    possible: bool
    observed: float


def parse_isa(text: str) -> Isa | None:
    """Read `text`; ``""`` is this machine, whose kernels are measured as they are. Raises UsageError."""
    if not text:
        return None
    try:
        return Isa(text.lower())
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no CPU to serve on; choose {', '.join(Isa)}, or leave --serve-on (serve_on=) out for this one"
        ) from error


def suited(model: Model, made: Group, menu: Menu, isa: Isa | None) -> Menu:
    """`menu` with weights of 7 bits where `isa` could cut sums of 8-bit products of the group `made`."""
    if isa is None or not isa.saturates or not made.is_product or not _at_risk(model, made):
        return menu
    schemes = tuple(in_seven_bits(scheme) for scheme in menu.schemes)
    changed = [before for before, after in zip(menu.schemes, schemes, strict=True) if before != after]
    return Menu(schemes, (*menu.refusals, *(Refusal(scheme, f"{isa}: {_CUT}") for scheme in changed)))


def in_seven_bits(scheme: Scheme) -> Scheme:
    """`scheme` with a second operand of 7 bits where both are 8-bit codes; any other scheme as it is."""
    weight = scheme.weight
    if scheme.activation is None or not isinstance(weight, ScaledFormat) or weight.element != INT8R:
        return scheme
    return replace(scheme, weight=replace(weight, element=_SEVEN))


def _at_risk(model: Model, made: Group) -> bool:
    """Whether some pair of weights could be too large; of two activations, any may be."""
    return not made.weight or made.kind not in LAYERS or bool(may_saturate(_codes(_rows(model, made), INT8R)).any())


def _rows(model: Model, made: Group, factors: Array | float = 1.0) -> Array:
    """The weight of `made`, its input channels times the `factors` of smoothing, as (outputs and taps, input channels)
    with the largest magnitude of every output 1."""
    weight, node = model.weight(made.weight), model.graph.node[made.name]
    if made.kind is not Kind.CONV and not node.attributes.get("transB", 0):
        weight = np.moveaxis(weight, -1, 0)
    even = _even(weight * factors)
    return np.moveaxis(even, 1, -1).reshape(-1, weight.shape[1])


def _even(weight: Array) -> Array:
    """`weight` with the largest magnitude of every output, along the first axis, made 1."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    return np.asarray(weight / np.where(largest > 0, largest, 1))


def _codes(even: Array, element: IntFormat) -> Array:
    return np.asarray(np.rint(even * element.qmax), np.int8)


def saturation(
    model: ModelSource, plan: Plan | str | Path, data: DataSource | None = None
) -> tuple[SaturationRow, ...]:
    """Which products of `plan` may saturate on x86 CPUs without VNNI (AVX2, AVX-512), and which do on `data`.

    Raises:
        ModelError, PlanError, DataError: what is given cannot be read, or does not belong together.
    """
    given = plan if isinstance(plan, Plan) else Plan.load(Path(plan))
    opened = open_model(model)
    if isinstance(plan, Plan):
        # Without the file of codes; those are no more dangerous than the nearest ones, which are looked at here.
        given = replace(given, codes={})
    opened = opened.equalised(given.equalised).knowing({} if isinstance(plan, Plan) else beside(Path(plan)))
    opened.converted(given)  # says what does not fit
    return tuple(_linted(opened, given, data))


def _linted(model: Model, plan: Plan, data: DataSource | None) -> Iterator[SaturationRow]:
    coded = [made for made in group(model.graph) if _has_bytes(plan.scheme(made.name)) and made.kind in LAYERS]
    seen = {}
    if data is not None and coded:
        source = open_data(data, model.inputs)
        fixed = batch_size(model.inputs, 0)
        batches = source.take(range(min(_SAMPLES, source.samples))).batches(fixed or _SAMPLES)
        wanted = tuple(dict.fromkeys(name for made in coded for name in made.operands))
        seen = dict(next(iter(model.observe((pad(b, fixed) if fixed else b for b in batches), wanted))))
    for made in coded:
        scheme = plan.scheme(made.name)
        element = integer(scheme.weight)
        rows = _rows(model, made, _factors(plan, made)) if made.weight else None
        possible = rows is None or bool(may_saturate(_codes(rows, element)).any())
        known = bool(seen) and made.operands[0] in plan.ranges and not has_constant_first(model.graph, made)
        observed = _observed(model, plan, made, seen) if known else -1.0
        yield SaturationRow(made.name, str(made.kind), str(scheme), possible and element.bits > _SEVEN.bits, observed)


def _factors(plan: Plan, made: Group) -> Array | float:
    """By what the channels that `made` reads are divided before they become codes; only products by a matrix are."""
    return parse(plan.smoothing[made.operands[0]]) if plan.scheme(made.name).smoothed else 1.0


def _has_bytes(scheme: Scheme) -> bool:
    return scheme.is_static and integer(scheme.activation).bits == UINT8.bits


def _observed(model: Model, plan: Plan, made: Group, values: dict[str, Array]) -> float:
    """The share of the outputs of `made` in which at least one sum of two products is cut."""
    inputs, weight = as_product(model, made, values).by_taps
    scheme = plan.scheme(made.name)
    tensor = made.operands[0]
    factors = _factors(plan, made)
    inputs, weight = inputs / factors, weight * factors
    low, high = plan.ranges[smoothed(tensor) if scheme.smoothed else tensor]
    format = integer(scheme.activation)
    affine = of_range(low, high, format)
    whole = np.rint(inputs[:, :_ROWS] / affine.scale) + affine.zero_point
    # Signed codes are moved by 128 before they are multiplied.
    codes = (np.clip(whole, format.qmin, format.qmax) + (128 if format.signed else 0)).astype(np.uint8)
    shares = [saturated(x, _codes(_even(w), integer(scheme.weight))) for x, w in zip(codes, weight, strict=True)]
    return float(np.mean(shares))
