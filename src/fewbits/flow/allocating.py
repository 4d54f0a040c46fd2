"""From measured tables to the problem that the exact solver reads: seconds, bytes and harm of every choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

from fewbits.costs.correction import Correction, Parts
from fewbits.costs.edges import domain, neighbours
from fewbits.costs.key import RegionCost
from fewbits.data.batches import Batch
from fewbits.dialect import dialect
from fewbits.flow.footprint import footprint
from fewbits.flow.job import Job
from fewbits.flow.site import Site
from fewbits.formats.describe import bits_per_element
from fewbits.formats.scheme import FP32, Scheme
from fewbits.grouping import RECURRENT, Group, attentions, matrices
from fewbits.search.allocation import Additive, Allocation, Choice, Item, Peak
from fewbits.search.boundary import Boundary, Crossing, PairTable
from fewbits.verify.acceptance import Objective

SECONDS: Final = "seconds"
BYTES: Final = "bytes"
MEMORY: Final = "memory"
_CONVERSIONS: Final = "conversions"
_PAIR: Final = 2
_FREE: Final = RegionCost(0.0, 0.0, 0.0, "", "", "", "")


def aim_of(job: Job) -> str:
    """The resource that the search makes small."""
    if job.times:
        return SECONDS
    return BYTES if job.for_size else MEMORY


class Costing:
    """What the choices on one site cost, from its table. A choice names a scheme text for every group of `names`;
    if one group of a pair of `together`, the two products of an attention, is cast, so is the other. Where
    throughput counts, seconds are those of a sample: a call's, divided among all samples that are in work."""

    def __init__(self, job: Job, site: Site) -> None:
        self._site = site
        self._shared_by = job.shared_by
        self._objective = job.objective
        self._samples = Batch(job.inputs).samples
        self._graph = job.graph
        self._groups = {group.name: group for group in job.groups}
        self.names = tuple(group.name for group in job.groups if group.name in site.space.free)
        whole = attentions(job.graph, job.groups) if dialect(site.name).attention else ()
        self.together = tuple(pair for pair in whole if set(pair) <= site.space.free)
        self._neighbours = neighbours(job.graph, job.groups, self.together)

    @cached_property
    def options(self) -> Mapping[str, tuple[str, ...]]:
        """Group → the texts of the schemes that it may have."""
        return {name: tuple(map(str, self._site.space.schemes[name])) for name in self.names}

    def seconds(self, correction: Correction) -> Additive:
        """Seconds per call or sample of the groups and of the conversions between them."""
        between = correction.factor(_CONVERSIONS)
        costs = {
            name: {
                option: correction.factor(_part(option)) * self._cost(name, option).compute
                + between * self._alone(name, option)
                for option in self.options[name]
            }
            for name in self.names
        }
        boundaries: list[Boundary] = [*self._crossings(between), *self._along(correction), *self._inside(costs)]
        return Additive(SECONDS, costs, boundaries, correction.rest)

    def bytes(self) -> Additive:
        """Bytes of the weights in the file, about: scales and zero points are left out. What groups share is stored in
        fp32 until the last of them has it in codes."""
        weights, kept, boundaries = self._weights(), str(FP32), []
        costs = {name: dict(options) for name, options in weights.items()}
        for sharing in self._shared:
            free = [name for name in sharing if name in costs]
            if len(free) == len(sharing) == _PAIR:
                first, second = sharing
                whole = weights[first][kept]
                pairs = [(kept, option) for option in self.options[second]]
                pairs += [(option, kept) for option in self.options[first]]
                boundaries.append(PairTable(first, second, dict.fromkeys(pairs, whole)))
            if len(free) < len(sharing) or len(sharing) == _PAIR:
                for name in free:
                    costs[name][kept] = 0.0
        return Additive(BYTES, costs, boundaries)

    def _weights(self) -> Mapping[str, Mapping[str, float]]:
        """Bytes of the weight of each group in each of its schemes."""
        return {
            name: {option: self._stored(self._groups[name], Scheme.parse(option)) for option in self.options[name]}
            for name in self.names
        }

    @cached_property
    def _shared(self) -> Sequence[tuple[str, ...]]:
        """The names of nodes that read one stored weight, where there are several and one of them is a group's."""
        found: dict[str, tuple[str, ...]] = {}
        for name in self.names:
            weight = self._groups[name].weight
            if weight:
                source = self._graph.stored(weight)
                found[source] = tuple(node.name for node in self._graph.readers(source))
        return [names for names in found.values() if len(names) > 1]

    def memory(self) -> Peak:
        """Bytes of weights and activations in one call, predicted; see `fewbits.flow.footprint`."""
        return footprint(MEMORY, self._graph, list(self._groups.values()), self._weights(), self._samples)

    def allocation(self, harm: Mapping[str, Mapping[str, float]], correction: Correction) -> Allocation:
        """The problem; `harm`: group → scheme text → harm, what it does not name is harmless."""
        items = [
            Item(name, {option: harm.get(name, {}).get(option, 0.0) for option in self.options[name]})
            for name in self.names
        ]
        # Peaks are many rows for the solver, so only where they count.
        memory = (self.memory(),) if self._objective is Objective.MEMORY else ()
        return Allocation(items, (self.seconds(correction), self.bytes(), *memory))

    def parts(self, choice: Choice, measured: float) -> Parts:
        """The predicted seconds of `choice` by what a correction can scale."""
        predicted: dict[str, float] = {_CONVERSIONS: 0.0}
        for name in self.names:
            option = choice.get(name, str(FP32))
            part = _part(option)
            predicted[part] = predicted.get(part, 0.0) + self._cost(name, option).compute
            predicted[_CONVERSIONS] += self._alone(name, option)
        full = {name: choice.get(name, str(FP32)) for name in self.names}
        crossed = (edge.cost(full[edge.first], full[edge.second]) for edge in self._crossings(1.0))
        predicted[_CONVERSIONS] += sum(crossed)
        for product, name in self._taken:
            for part, seconds in self._otherwise(name, full[product], full[name]).items():
                predicted[part] = predicted.get(part, 0.0) + seconds
        return Parts(predicted, measured)

    def _cost(self, name: str, option: str) -> RegionCost:
        cost = self._site.costs.costs.get(name, {}).get(option, _FREE)
        entry, compute, exit_ = (one / self._shared_by for one in (cost.entry, cost.compute, cost.exit))
        return replace(cost, entry=entry, compute=compute, exit=exit_)

    @cached_property
    def _taken(self) -> Sequence[tuple[str, str]]:
        """Products, each with a sum that it takes along where it is in codes."""
        pairs = [(along.product, name) for name, along in self._site.costs.along.items()]
        return [pair for pair in pairs if {*pair} <= set(self.options)]

    def _otherwise(self, name: str, before: str, option: str) -> Mapping[str, float]:
        """What the sum `name` in `option` costs more than by itself behind a product in `before`, by parts: behind one
        in codes floats are added by its kernel, behind another one there is none that adds codes."""
        kept, coded = str(FP32), Scheme.parse(before).is_static
        plain = self._cost(name, kept).compute
        if coded and option == kept:
            return {_part(kept): self._site.costs.along[name].seconds / self._shared_by - plain}
        if not coded and Scheme.parse(option).is_static:
            return {_part(kept): plain, _part(option): -self._cost(name, option).compute}
        return {}

    def _along(self, correction: Correction) -> list[PairTable]:
        """Seconds of sums that depend on the products before them."""
        found = []
        for product, name in self._taken:
            costs = {
                (before, option): sum(correction.factor(part) * seconds for part, seconds in parts.items())
                for before in self.options[product]
                for option in self.options[name]
                if (parts := self._otherwise(name, before, option))
            }
            found.append(PairTable(product, name, costs))
        return found

    def _alone(self, name: str, option: str) -> float:
        """Conversions of tensors that come from no group or go to none."""
        cost = self._cost(name, option)
        operands = max(1, len(self._groups[name].operands))
        entries = self._neighbours.entries.get(name, 0.0) / operands
        exits = cost.exit if name in self._neighbours.exits else 0.0
        return max(0.0, cost.entry) * entries + max(0.0, exits)

    def _crossings(self, factor: float) -> list[Crossing]:
        found = []
        for edge in self._neighbours.edges:
            ends = edge.first, edge.second
            if ends in self.together or not {*ends} <= set(self.options):
                continue
            operands = max(1, len(self._groups[edge.second].operands))
            leave = {
                option: factor * max(0.0, self._cost(edge.first, option).exit) / edge.readers
                for option in self.options[edge.first]
            }
            enter = {
                option: factor * max(0.0, self._cost(edge.second, option).entry) / operands / edge.readers
                for option in self.options[edge.second]
            }
            domains = {
                option: domain(Scheme.parse(option))
                for option in (*self.options[edge.first], *self.options[edge.second])
            }
            found.append(Crossing(edge.first, edge.second, domains, domains, leave, enter))
        return found

    def _inside(self, costs: Mapping[str, Mapping[str, float]]) -> list[Crossing]:
        """One kernel runs both products of an attention: with codes or floats for either, but casts only for both; in
        pieces it takes longer than anything that the other choices could save."""
        forbidden = 1.0 + sum(max(options.values()) for options in costs.values())
        found = []
        for first, second in self.together:
            options = dict.fromkeys((*self.options[first], *self.options[second]))
            kinds = {option: option if Scheme.parse(option).is_cast else "" for option in options}
            found.append(Crossing(first, second, kinds, kinds, dict.fromkeys(options, forbidden)))
        return found

    def _stored(self, group: Group, scheme: Scheme) -> float:
        weights = [stored] if (stored := group.weight or group.constant) else []
        if group.kind in RECURRENT:
            weights = list(matrices(self._graph, group))
        elements = sum(self._graph.tensors[weight].elements for weight in weights)
        return elements * (32.0 if scheme.weight is None else bits_per_element(scheme.weight)) / 8


def _part(option: str) -> str:
    return Scheme.parse(option).sort
