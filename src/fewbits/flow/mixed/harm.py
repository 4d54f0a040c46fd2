"""What rounding does to each group alone: relative squared output error on real operands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fewbits.data.batches import Batch
from fewbits.formats.scheme import Scheme
from fewbits.grouping import Group
from fewbits.models.protocol import Model
from fewbits.plan import Choice, Plan
from fewbits.sensitivity.output_error import output_error
from fewbits.targets.protocol import Target


def harms(model: Model, target: Target, groups: Sequence[Group], scheme: Scheme, batch: Batch) -> Mapping[str, float]:
    """The error of each of `groups` in `scheme` on `batch`: all of them side by side, in float and rounded."""
    operands = tuple(dict.fromkeys(name for made in groups for name in made.operands))
    (values,) = model.observe([batch], operands)
    cut = model.regions(groups, {name: array.shape for name, array in values.items()})
    given = {name: values[operand] for name, operand in cut.inputs.items()}
    choices = {made.name: Choice(str(scheme), "to be measured") for made in groups}
    rounded = cut.model.converted(Plan(cut.model.sha256, choices, {}, target=target.name))
    with target.open(cut.model.original()) as session:
        original = session(given)
    with target.open(rounded) as session:
        changed = session(given)
    pairs = zip(groups, original.items(), strict=True)
    return {made.name: output_error([{name: one}], [{name: changed[name]}]).value for made, (name, one) in pairs}
