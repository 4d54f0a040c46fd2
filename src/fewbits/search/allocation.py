"""Which option each item takes: a multiple-choice problem, as values.

An item is a group of layers, an option a scheme. Harm adds up; so do resources such as seconds or bytes, besides what
is paid where neighbours differ; a peak, such as memory, is the largest of several sums. HAWQ-V3 (Yao et al., arXiv
2011.10680, section 3.4) is the special case of two options, without boundaries and peaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, isfinite
from typing import Final, TypeAlias

from fewbits.errors import UsageError
from fewbits.search.boundary import Boundary

HARM: Final = "harm"
"""The name of harm beside those of the resources, in limits and aims."""

Choice: TypeAlias = Mapping[str, str]
"""Item name → option."""

_DUST: Final = 1e-9  # relative: sums of floats differ in the last digits with their order


@dataclass(frozen=True, slots=True)
class Item:
    """Something that takes one option. `harm`: option → harm, finite and >= 0; its keys are the options."""

    name: str
    harm: Mapping[str, float]

    @property
    def options(self) -> tuple[str, ...]:
        """What the item may take."""
        return tuple(self.harm)


@dataclass(frozen=True, slots=True)
class Additive:
    """A resource whose cost is a sum. `costs`: item → option → cost, for every item and option; `constant` is paid
    whatever is chosen."""

    name: str
    costs: Mapping[str, Mapping[str, float]]
    boundaries: Sequence[Boundary] = ()
    constant: float = 0.0

    def value(self, choice: Choice) -> float:
        """What `choice` costs."""
        own = (self.costs[item][option] for item, option in choice.items())
        between = (edge.cost(choice[edge.first], choice[edge.second]) for edge in self.boundaries)
        return fsum((self.constant, *own, *between))


@dataclass(frozen=True, slots=True)
class Step:
    """A moment at which something is in use. `costs`: item → option → cost; what it does not name costs 0."""

    costs: Mapping[str, Mapping[str, float]]
    constant: float = 0.0

    def value(self, choice: Choice) -> float:
        """What `choice` has in use."""
        return fsum((self.constant, *(options.get(choice[item], 0.0) for item, options in self.costs.items())))


@dataclass(frozen=True, slots=True)
class Peak:
    """A resource whose cost is the largest of its steps."""

    name: str
    steps: Sequence[Step]

    def value(self, choice: Choice) -> float:
        """What `choice` costs."""
        return max(step.value(choice) for step in self.steps)


Resource: TypeAlias = Additive | Peak


@dataclass(frozen=True, slots=True)
class Allocation:
    """The whole problem. Items of one tie take the same option, one that all of them have; ties that share an item
    are one tie. `fixed`: item → the option that it takes.

    Raises:
        UsageError: a name that is double, unknown or missing, a number that is not finite, a harm below 0, a tie
            without a common option, an option that cannot be fixed.
    """

    items: Sequence[Item]
    resources: Sequence[Resource] = ()
    ties: Sequence[Sequence[str]] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fault = next(self._faults(), None)
        if fault is not None:
            raise UsageError(fault)

    @property
    def names(self) -> tuple[str, ...]:
        """Harm and the resources: what can be limited and minimised."""
        return (HARM, *(resource.name for resource in self.resources))

    def harm(self, choice: Choice) -> float:
        """The harm of `choice`."""
        return fsum(item.harm[choice[item.name]] for item in self.items)

    def values(self, choice: Choice) -> Mapping[str, float]:
        """Harm and every resource of `choice`, which names an option for every item."""
        return {HARM: self.harm(choice), **{resource.name: resource.value(choice) for resource in self.resources}}

    def blocks(self) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
        """The items that decide together, with the options open to them, in order of the items."""
        together = _merged([item.name for item in self.items], self.ties)
        options = {item.name: item.options for item in self.items}
        return tuple((names, self._open(names, options)) for names in together)

    def _open(self, names: tuple[str, ...], options: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        fixed = {self.fixed[name] for name in names if name in self.fixed}
        return tuple(
            option
            for option in options[names[0]]
            if all(option in options[name] for name in names) and all(option == one for one in fixed)
        )

    def _faults(self) -> Iterator[str]:
        if not self.items:
            yield "an allocation needs at least one item"
        yield from _doubles("items", [item.name for item in self.items])
        yield from _doubles("resources", list(self.names))
        options = {item.name: item.options for item in self.items}
        for item in self.items:
            yield from _item_faults(item)
        for resource in self.resources:
            yield from _resource_faults(resource, options)
        for tie in self.ties:
            yield from (f"a tie names {name!r}, which is no item" for name in tie if name not in options)
        for name, option in self.fixed.items():
            if option not in options.get(name, ()):
                yield f"item {name!r} cannot be fixed to {option!r}; {_offer(name, options)}"
        for names, open_options in self.blocks():
            if not open_options:
                each = "; ".join(_offer(name, options) for name in names)
                fixed = {name: self.fixed[name] for name in names if name in self.fixed}
                yield f"{', '.join(map(repr, names))} are tied but no option is open to all: {each}; fixed: {fixed}"


def within(value: float, limit: float) -> bool:
    """Whether `value` respects `limit`, up to the rounding of sums (1e-9 of them)."""
    return value <= limit + _DUST * max(abs(limit), abs(value))


def _merged(names: Sequence[str], ties: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    leader = {name: name for name in names}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for tie in ties:
        for name in tie[1:]:
            leader[lead(name)] = lead(tie[0])
    together: dict[str, list[str]] = {}
    for name in names:
        together.setdefault(lead(name), []).append(name)
    return [tuple(members) for members in together.values()]


def _doubles(what: str, names: Sequence[str]) -> Iterator[str]:
    double = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if double:
        yield f"{what} share the names {', '.join(map(repr, double))}; names must differ ({HARM!r} is taken by harm)"


def _offer(name: str, options: Mapping[str, tuple[str, ...]]) -> str:
    if name not in options:
        return f"there is no item {name!r}"
    return f"{name!r} has {', '.join(map(repr, options[name]))}"


def _item_faults(item: Item) -> Iterator[str]:
    if not item.harm:
        yield f"item {item.name!r} has no options; give it at least one"
    for option, harm in item.harm.items():
        if not (isfinite(harm) and harm >= 0):
            yield f"option {option!r} of item {item.name!r} has harm {harm}; harm is a finite number, 0 or more"


def _resource_faults(resource: Resource, options: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    if isinstance(resource, Additive):
        yield from _additive_faults(resource, options)
    else:
        yield from _peak_faults(resource, options)


def _additive_faults(resource: Additive, options: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    said = f"resource {resource.name!r}"
    for name, offered in options.items():
        missing = [option for option in offered if option not in resource.costs.get(name, {})]
        if missing:
            yield f"{said} has no cost for item {name!r} with {', '.join(map(repr, missing))}; 0 if it is free"
    yield from _cost_faults(said, resource.costs, resource.constant, options)
    for edge in resource.boundaries:
        ends = [name for name in (edge.first, edge.second) if name not in options]
        if ends or edge.first == edge.second:
            what = f"{ends[0]!r} is no item" if ends else "the two must differ"
            yield f"{said} has a boundary between {edge.first!r} and {edge.second!r}; {what}"
            continue
        for fault in edge.faults(options[edge.first], options[edge.second]):
            yield f"the boundary {edge.first!r} to {edge.second!r} of {said} {fault}"


def _peak_faults(resource: Peak, options: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    if not resource.steps:
        yield f"resource {resource.name!r} is a peak without steps; give at least one"
    for place, step in enumerate(resource.steps):
        yield from _cost_faults(f"step {place} of resource {resource.name!r}", step.costs, step.constant, options)


def _cost_faults(
    said: str, costs: Mapping[str, Mapping[str, float]], constant: float, options: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    if not isfinite(constant):
        yield f"{said} has the constant {constant}; a cost is a finite number"
    for name, by_option in costs.items():
        for option, cost in by_option.items():
            if option not in options.get(name, ()):
                yield f"{said} has a cost for {name!r} with {option!r}; {_offer(name, options)}"
            if not isfinite(cost):
                yield f"{said} has cost {cost} for {name!r} with {option!r}; a cost is a finite number"
