"""A plan carried over from one representation of a model to another: the same decisions under other names.

A PyTorch module and its ONNX export compute the same, in graphs that are cut differently: a linear layer is one call or
a product and a sum, attention one call or two products with a Softmax between. Which groups and tensors belong together
is found from where the nodes of one graph come from in the other, never from what layers are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fewbits.formats.scheme import FP32, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group, group
from fewbits.placement import place
from fewbits.plan import Choice, Plan, smoothed
from fewbits.rescaling import junctions

Value = TypeVar("Value")

_SUFFIX = smoothed("")
_NO_GROUP = "no group there computes this"
_NO_TENSOR = "no tensor there holds these values"
_NOT_SCALED = "it does not stand between products there, so its channels cannot be scaled"
_NOT_KEPT = "which node there is this one, outside of groups, is not known"


@dataclass(frozen=True, slots=True)
class Correspondence:
    """What is the same in two graphs, as pairs (name in the first, name in the second). One group may stand for several
    of the other graph, and one tensor, too."""

    groups: tuple[tuple[str, str], ...]
    tensors: tuple[tuple[str, str], ...]

    @property
    def turned(self) -> Correspondence:
        """The same from the second to the first."""
        return Correspondence(_turned(self.groups), _turned(self.tensors))


@dataclass(frozen=True, slots=True)
class Left:
    """Something of a plan that the other representation cannot have: what it is (``scheme``, ``range``, ``codes``,
    ``factors``, ``means``, ``float32``), of which group, tensor or node, and why."""

    what: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what} of {self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Carried:
    """A plan for the other representation, and what of the given one is not in it."""

    plan: Plan
    left: tuple[Left, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """The representation that a plan is carried to. `obstacle` says why a group cannot have a scheme there, "" if it
    can. `gives_floats`: a product on codes gives floats, so that only what it reads needs a range."""

    graph: Graph
    sha256: str
    obstacle: Callable[[Graph, Group, Scheme], str]
    gives_floats: bool = False


def correspond(first: Graph, second: Graph, calls: Mapping[str, str], values: Mapping[str, str]) -> Correspondence:
    """What belongs together in two graphs, given for nodes of the second the node of the first that they came from
    (`calls`), and for its tensors the tensor that they are (`values`).

    A group belongs to the group whose node its anchor came from. Where that is one to one, their operands and results
    are the same tensors, whatever carriers an exporter left out before them.
    """
    group_of = {node: made for made in group(first) for node in made.nodes}
    pairs = [
        (group_of[source], made)
        for made in group(second)
        if (source := calls.get(made.name)) in group_of and _alike(group_of[source], made)
    ]
    tensors = {(one, other): None for other, one in values.items()}
    ones, once = frozenset(values.values()), _occur_once([one.name for one, _ in pairs])
    for one, other in pairs:
        if one.name in once:
            same = [*zip(one.operands, other.operands, strict=False)] if _reads_alike(one, other) else []
            same += [(one.inner, other.inner), (one.output, other.output)]
            # Where both have a name in the other graph, that is more certain than the place that they stand at.
            tensors |= dict.fromkeys((a, b) for a, b in same if a not in ones or b not in values)
    return Correspondence(tuple((one.name, other.name) for one, other in pairs), tuple(tensors))


def carry(plan: Plan, side: Side, same: Correspondence, target: str = "") -> Carried:
    """`plan`, found on the first graph of `same`, for the second, which is that of `side`; `target` is the runtime that
    it is written for. What has no counterpart is listed: groups stay in fp32 then."""
    left = [Left("float32", name, _NOT_KEPT) for name in plan.kept]
    tensors = _all(same.tensors)
    groups = {made.name: made for made in group(side.graph)}
    equalised, lost = _equalised(plan, side.graph, tuple(groups.values()), tensors, left)
    # Ranges, factors and means are of what scaling the channels leaves: without it they are of nothing.
    ranges = _carried(plan.ranges, tensors, lost, "range", left)
    smoothing = _carried(plan.smoothing, tensors, lost, "factors", left)
    scaling = _carried(plan.scaling, tensors, lost, "factors", left)
    means = _carried(plan.means, tensors, lost, "means", left)
    wanted = _wanted(plan, same, left)
    choices = {name: _possible(side, groups[name], choice, smoothing, scaling, left) for name, choice in wanted.items()}
    choices = _with_ranges(side, groups, choices, ranges, left)
    unscaled = {other for name in lost for other in tensors.get(name, ())}
    # Weights beside such a tensor would be scaled, too, so codes that were found for them are of other weights.
    coded = {
        name
        for name, choice in choices.items()
        if choice.scheme != str(FP32) and unscaled.isdisjoint((*groups[name].operands, groups[name].inner))
    }
    carried = replace(
        plan,
        model_sha256=side.sha256,
        choices=choices,
        ranges=ranges,
        target=target,
        machine="",
        smoothing=smoothing,
        scaling=scaling,
        codes=dict(_codes(plan, same, coded, left)),
        equalised=equalised,
        means=means,
        kept=(),
        notes=(*plan.notes, f"Carried over from the plan for {plan.model_sha256[:12]}."),
    )
    return Carried(carried, tuple(dict.fromkeys(left)))


def _alike(one: Group, other: Group) -> bool:
    """Whether two groups can be the same layer: both multiply, or both are of one kind."""
    return (one.is_product and other.is_product) or one.kind is other.kind


def _reads_alike(one: Group, other: Group) -> bool:
    return len(one.operands) == len(other.operands) and one.kind is not Kind.ATTENTION


def _wanted(plan: Plan, same: Correspondence, left: list[Left]) -> dict[str, Choice]:
    """Group of the other graph → choice, as far as those that it stands for agree."""
    there, here = _all(same.groups), _all(_turned(same.groups))
    left += [Left("scheme", name, _NO_GROUP) for name in sorted(plan.low) if name not in there]
    found: dict[str, Choice] = {}
    for name, sources in here.items():
        given = [plan.choices[source] for source in sources if source in plan.choices]
        if not given:
            continue
        schemes = {str(plan.scheme(source)) for source in sources}
        if len(schemes) == 1:
            found[name] = given[0]
            continue
        why = f"one call there, {name}, stands for {', '.join(sources)}, whose schemes differ"
        found[name] = Choice(str(FP32), why)
        left += [Left("scheme", source, why) for source in sources if source in plan.low]
    return found


def _equalised(
    plan: Plan, graph: Graph, groups: Sequence[Group], tensors: Mapping[str, Sequence[str]], left: list[Left]
) -> tuple[dict[str, str], frozenset[str]]:
    """The factors of channels between products under the other names, and the tensors that cannot have theirs. Of
    several tensors that are the same, one is divided."""
    between = {one.tensor for one in junctions(graph, groups)} if plan.equalised else frozenset[str]()
    found, lost = dict[str, str](), set[str]()
    for name, factors in plan.equalised.items():
        other = next((other for other in tensors.get(name, ()) if other in between), "")
        if other:
            found[other] = factors
        else:
            lost.add(name)
            left.append(Left("factors", name, _NOT_SCALED if name in tensors else _NO_TENSOR))
    return found, frozenset(lost)


def _possible(
    side: Side,
    made: Group,
    choice: Choice,
    smoothing: Mapping[str, str],
    scaling: Mapping[str, str],
    left: list[Left],
) -> Choice:
    scheme = Scheme.parse(choice.scheme)
    reason = side.obstacle(side.graph, made, scheme)
    factors = scaling if scheme.is_weight_only else smoothing
    if not reason and scheme.smoothed and made.operands[0] not in factors:
        reason = f"the factors of {made.operands[0]} are not known there"
    if not reason:
        return choice
    left.append(Left("scheme", made.name, reason))
    return Choice(str(FP32), reason)


def _with_ranges(
    side: Side,
    groups: Mapping[str, Group],
    choices: Mapping[str, Choice],
    ranges: Mapping[str, tuple[float, float]],
    left: list[Left],
) -> dict[str, Choice]:
    """`choices` without codes for groups that would read or give codes of unknown range."""
    found = dict(choices)
    while True:
        schemes = {name: Scheme.parse(choice.scheme) for name, choice in found.items()}
        static = [groups[name] for name, scheme in schemes.items() if scheme.is_static]
        unknown = {name for name in _coded(side, groups, static, schemes) if not _known(name, ranges)}
        # Readers first: without them, what gives the tensor may give floats.
        reading = [made.name for made in static if not unknown.isdisjoint(made.operands)]
        stuck = reading or [made.name for made in static if made.inner in unknown]
        if not stuck:
            return found
        for name in stuck:
            reason = "the range of what it reads or gives is not known there"
            found[name] = Choice(str(FP32), reason)
            left.append(Left("scheme", name, reason))


def _coded(
    side: Side, groups: Mapping[str, Group], static: Sequence[Group], schemes: Mapping[str, Scheme]
) -> frozenset[str]:
    """The tensors that become codes."""
    if side.gives_floats:
        return frozenset(name for made in static for name in made.operands)
    placed = place(side.graph, tuple(groups.values()), schemes)
    return frozenset((*placed.writes, *(name for _, name in placed.reads)))


def _known(name: str, ranges: Mapping[str, tuple[float, float]]) -> bool:
    return name in ranges or smoothed(name) in ranges


def _carried(
    given: Mapping[str, Value],
    tensors: Mapping[str, Sequence[str]],
    lost: Collection[str],
    what: str,
    left: list[Left],
) -> dict[str, Value]:
    """`given`, which is kept by tensor or by what smoothing leaves of one, under the other names."""
    found: dict[str, Value] = {}
    for name, value in given.items():
        plain = name.removesuffix(_SUFFIX)
        suffix = name[len(plain) :]
        if plain in lost:
            left.append(Left(what, name, _NOT_SCALED))
        elif plain not in tensors:
            left.append(Left(what, name, _NO_TENSOR))
        else:
            for other in tensors[plain]:
                # Pairs by name come first; a second tensor that stands for the same only renames it.
                found.setdefault(f"{other}{suffix}", value)
    return found


def _codes(plan: Plan, same: Correspondence, coded: Collection[str], left: list[Left]) -> Iterator[tuple[str, str]]:
    """Codes are of the product as it is written, (depth, columns), whatever the layout of the weight."""
    there = _all(same.groups)
    for name, codes in plan.codes.items():
        others = [other for other in there.get(name, ()) if other in coded]
        if len(others) != 1:
            left.append(Left("codes", name, "no one group there has this weight in this scheme"))
        else:
            yield others[0], codes


def _all(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one, other in pairs:
        found.setdefault(one, []).append(other)
    return found


def _turned(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((other, one) for one, other in pairs)


def _occur_once(names: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name in names if names.count(name) == 1)
