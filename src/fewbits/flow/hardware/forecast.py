"""What a cost model says of the plans for one simulated target, and the front that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from fewbits.costs.layers import layer_spec
from fewbits.costs.model import CostModel, total
from fewbits.costs.plugins import cost_model
from fewbits.costs.predicted import predicted, supports, widths
from fewbits.flow.job import Job
from fewbits.flow.site import Site
from fewbits.formats.scheme import FP32, Scheme
from fewbits.record import PredictedCost
from fewbits.search.allocation import Additive, Allocation, Item, Peak, Resource, Step
from fewbits.search.front import trace
from fewbits.search.problem import Ladder, Rung
from fewbits.search.program import init
from fewbits.sensitivity.table import SensitivityTable
from fewbits.space import Refusal

_COST: Final = "cost"
_POINTS: Final = 48
_SECONDS: Final = 30.0
_WORST: Final = 1e6
"""Harm of a scheme that breaks the model: large, but a number that a solver can add."""
_BESIDES: Final = ("size", "bops")
"""Cost models whose figures are of use whatever the hardware."""

Schemes = Mapping[str, Scheme]


@dataclass(frozen=True)
class Forecast:
    """`model`, called `name`, asked about the groups of `job`. `site` has its costs, and its space has no scheme that
    the model has no cost for or that could only lose."""

    job: Job
    site: Site
    name: str
    model: CostModel

    @classmethod
    def of(cls, job: Job) -> Forecast:
        """For the simulated target of `job`. Raises as `cost_model` and `predicted`."""
        (site,) = job.sites
        name = site.name.partition(":")[2]
        model = cost_model(name)
        table = predicted(model, site.name, job.graph, job.groups, site.space.schemes)
        refused = {
            group: [
                Refusal(Scheme.parse(scheme), cost.refusal)
                for scheme, cost in costs.items()
                # Nothing else is the original, whatever the hardware.
                if cost.refusal and scheme != str(FP32)
            ]
            for group, costs in table.costs.items()
        }
        return cls(job, replace(site, space=site.space.without(refused), costs=table), name, model)

    @cached_property
    def options(self) -> Mapping[str, tuple[str, ...]]:
        """Group that may leave fp32 → the texts of what it may have; fp32 only where the model has a cost for it."""
        space = self.site.space
        offered = {group.name: space.schemes[group.name] for group in self.job.groups if group.name in space.free}
        return {
            name: tuple(str(scheme) for scheme in schemes if str(scheme) in self.site.costs.usable(name))
            for name, schemes in offered.items()
        }

    @property
    def knows_original(self) -> bool:
        """Whether the model has a cost for every group in fp32 that may leave it."""
        return all(str(FP32) in options for options in self.options.values())

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The products that stay in fp32 whatever is chosen, and for which the model has no cost there."""
        return tuple(
            group.name
            for group in self.job.groups
            if group.is_product and group.name not in self.options and not supports(self.model, group, FP32)
        )

    def ladder(self, table: SensitivityTable) -> Ladder:
        """The predicted front; the last rung is the original, also where it has no cost (-1).

        Raises:
            ToolError: the solver failed.
        """
        items = [
            Item(name, {option: min(table.values[name].get(option, 0.0), _WORST) for option in options})
            for name, options in self.options.items()
        ]
        found = trace(init(Allocation(items, (self._resource(),))), _COST, points=_POINTS, seconds=_SECONDS)
        rungs = [Rung(one.choice, one.harm, one.costs[_COST]) for one in found.solutions]
        original = dict.fromkeys(self.options, str(FP32))
        if rungs and dict(rungs[-1].choice) == original:
            return rungs
        return [*rungs, Rung(original, 0.0, self._whole(self.model, {}) if self.knows_original else -1.0)]

    def costs(self, chosen: Schemes) -> tuple[PredictedCost, ...]:
        """What the model, and models of what matters besides, say of the groups in `chosen` and the rest in fp32."""
        besides = {name: cost_model(name) for name in _BESIDES if name != self.name}
        widest = {name: self.site.space.coded[name] for name in self.options}
        known = {self.name: self.knows_original}
        return tuple(
            PredictedCost(
                model=name,
                unit=model.unit,
                original=self._whole(model, {}) if known.get(name, True) else -1.0,
                widest=self._whole(model, widest),
                tuned=self._whole(model, chosen),
            )
            for name, model in {self.name: self.model, **besides}.items()
        )

    def _whole(self, model: CostModel, chosen: Schemes) -> float:
        """The cost of all products for which `model` has one."""
        asked = [(group, chosen.get(group.name, FP32)) for group in self.job.groups if group.is_product]
        return total(
            model,
            [
                (layer_spec(self.job.graph, group), widths(scheme))
                for group, scheme in asked
                if supports(model, group, scheme)
            ],
        )

    def _resource(self) -> Resource:
        table = self.site.costs
        costs = {
            name: {option: table.costs[name][option].compute for option in options}
            for name, options in self.options.items()
        }
        fixed = [
            group[str(FP32)].compute
            for name, group in table.costs.items()
            if name not in self.options and not group[str(FP32)].refusal
        ]
        if self.model.additive:
            return Additive(_COST, costs, constant=sum(fixed))
        steps = [Step({name: options}) for name, options in costs.items()]
        return Peak(_COST, [*steps, *(Step({}, constant) for constant in _largest(fixed))])


def _largest(costs: Sequence[float]) -> Sequence[float]:
    return [max(costs)] if costs else []
