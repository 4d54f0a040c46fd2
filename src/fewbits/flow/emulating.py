"""A PyTorch module in formats that nothing here multiplies: each layer's operands are rounded as `fewbits.formats`
says, and multiplied in float32. What is measured so is accuracy, never speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fewbits.data import DataSource, open_data
from fewbits.data.batches import Dataset
from fewbits.data.raw import look
from fewbits.errors import UsageError
from fewbits.formats.scheme import Scheme
from fewbits.graph import Kind
from fewbits.grouping import Group, group
from fewbits.models import ModelSource, is_torch, open_model, open_module
from fewbits.models.protocol import TORCH_EMULATED, Model
from fewbits.plan import Choice, Plan
from fewbits.space import Rule

if TYPE_CHECKING:
    from fewbits.models import Module

_BATCH = 16
_SHOWN = 5


def emulate(model: ModelSource, rules: Sequence[Rule | str], data: DataSource) -> Module:
    """A PyTorch module as it computes with its layers in other formats, emulated in float32.

    Args:
        model: a module or an exported program; it is never changed.
        rules: which layers have which scheme, ``"*=w:mxfp4/g32@0 a:mxfp4 dynamic"``; names as in `fewbits.inspect`,
            with wildcards; the first rule that matches a layer counts, and what none matches stays as it is.
        data: batches such as the module is called with; schemes with ranges get those of all of it.

    Raises:
        UsageError: it is no PyTorch module, or a rule matches no layer.
        PlanError: a layer cannot be emulated in its scheme; the message says why.
        ModelError, DataError: as `fewbits.tune`.
    """
    if not is_torch(model):
        raise UsageError("emulate takes a PyTorch module; an ONNX model is emulated by the target simulated:mpic")
    raw = look(data)
    opened = open_model(model, raw.items)
    chosen = _chosen(_layers(opened), [Rule.parse(one) if isinstance(one, str) else one for one in rules])
    static = [made for made in group(opened.graph) if made.name in chosen and chosen[made.name].is_static]
    ranges = _ranges(opened, static, open_data(raw.source, opened.inputs)) if static else {}
    choices = {name: Choice(str(scheme), "emulated") for name, scheme in chosen.items()}
    return open_module(opened.converted(Plan(opened.sha256, choices, ranges, target=TORCH_EMULATED)))


def _layers(model: Model) -> Sequence[Group]:
    """Products, and tables whose rows are looked up."""
    return [made for made in group(model.graph) if made.is_product or made.kind is Kind.GATHER]


def _chosen(layers: Sequence[Group], rules: Sequence[Rule]) -> Mapping[str, Scheme]:
    """Layer → scheme, without those that stay in fp32."""
    unused = [str(rule) for rule in rules if not any(rule.matches(made) for made in layers)]
    if unused:
        names = ", ".join(made.name for made in layers[:_SHOWN])
        raise UsageError(f"no layer matches {unused[0]!r}; the layers are {names}{', …' * (len(layers) > _SHOWN)}")
    first = {made.name: next((rule for rule in rules if rule.matches(made)), None) for made in layers}
    return {name: rule.scheme for name, rule in first.items() if rule is not None and not rule.scheme.is_fp32}


def _ranges(model: Model, groups: Iterable[Group], data: Dataset) -> Mapping[str, tuple[float, float]]:
    """The least and the largest value of what `groups` read."""
    operands = sorted({name for made in groups for name in made.operands})
    found: dict[str, tuple[float, float]] = {}
    for values in model.observe(data.batches(_BATCH), operands):
        for name, array in values.items():
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return found
