"""Seconds per (group, scheme) on the target: groups that are the same to a runtime are measured once, ever.

All regions that are still unknown are put side by side in one model per scheme, opened once and profiled: the
runtime's own times say what the arithmetic takes and what getting in and out of the scheme takes, its own words which
kernel ran in which precision. What a runtime does not load is found by halving. Times of regions that a runtime would
fuse with their neighbours do not add up exactly (arXiv 2505.13060), so whole models correct the table afterwards.

A sum that a runtime adds in the kernel of a product is no kernel of its own. Its region holds that product, too, and
one that reads the sum as codes; its price is what the product takes longer than alone, once with the sum in codes, once
in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import Final

import numpy as np

from fewbits.attribution import assigned, share
from fewbits.costs.cache import CostCache
from fewbits.costs.key import RegionCost, RegionKey
from fewbits.costs.signature import Shapes, fused, signature
from fewbits.costs.table import Along, CostTable
from fewbits.data.batches import Arrays
from fewbits.errors import DataError, ModelError, PlanError
from fewbits.formats.floating import FloatFormat
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import FP32, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import RECURRENT, Group
from fewbits.grouping import group as grouped
from fewbits.models.protocol import Model
from fewbits.plan import Choice, Plan, smoothed
from fewbits.progress import Progress
from fewbits.smoothing import text
from fewbits.targets.protocol import Executed, Target

CLIFF: Final = 3.0
"""So many times slower than fp32 is no choice but a trap: a reference kernel, or a conversion of everything."""
_CALLS: Final = 16
_RAN_IN: Final = "the runtime ran it in"
_LAYOUT: Final = ("Transpose", "Reorder", "Cast")
_RANGE: Final = (-4.0, 4.0)
_COUNTING: Final = RECURRENT | {Kind.GATHER}
_ADDING_FLOATS: Final = ", adding floats"
_TO_FLOATS: Final = ", to floats"
_LOOK_UP: Final = "Gather"
"""Decoding rows takes some times as long as copying them, and little of any model: a price and no trap."""

_FLOATS_ADDED: Final = "it is added in floats there, as somebody who reads it takes no codes"

Wanted = Mapping[str, Sequence[Scheme]]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is measured and where: groups of `model` on `target`; `values` holds what their operands are in one call."""

    model: Model
    target: Target
    groups: Sequence[Group]
    values: Arrays
    progress: Progress

    @property
    def graph(self) -> Graph:
        """The model's graph."""
        return self.model.graph

    @property
    def shapes(self) -> Shapes:
        """Shapes of the operands in one call."""
        return {name: array.shape for name, array in self.values.items()}


def cost_table(measuring: Measuring, wanted: Wanted, cache: CostCache) -> CostTable:
    """The costs of every group in the schemes that `wanted` names for it, from `cache` as far as they are there."""
    groups = [group for group in measuring.groups if group.name in wanted and _is_seen(group, measuring.values)]
    keys = {(group.name, scheme): _key(measuring, group, scheme) for group in groups for scheme in wanted[group.name]}
    taken = {
        group.name: _adding_floats(keys[group.name, scheme])
        for group in groups
        for scheme in wanted[group.name]
        if _is_inside(measuring, group, scheme)
    }
    known = dict(cache.get_many({*keys.values(), *taken.values()}))
    missing: dict[Scheme, dict[RegionKey, Group]] = {}
    for group in groups:
        for scheme in wanted[group.name]:
            key = keys[group.name, scheme]
            if key not in known:
                missing.setdefault(scheme, {}).setdefault(key, group)
    found = len(known)
    measuring.progress.stage(f"measure costs on {measuring.target.name}", len(missing))
    # fp32 first: what is a cliff is told by comparison with it.
    for scheme in sorted(missing, key=lambda scheme: (not scheme.is_fp32, str(scheme))):
        regions = missing[scheme]
        measured = dict(_measured(measuring, scheme, regions))
        known.update(measured)
        # What looks like a cliff is looked at twice: something else may have run on the machine just then.
        steep = {key: group for key, group in regions.items() if _judged(key, known[key], known) != known[key]}
        for key, again in _measured(measuring, scheme, steep) if steep else ():
            known[key] = min(known[key], again, key=lambda cost: cost.total)
        for key in measured:
            cache.put(key, known[key])
        measuring.progress.advance(f"{scheme}: {len(regions)} regions")
    costs: dict[str, dict[str, RegionCost]] = {}
    for (name, scheme), key in keys.items():
        costs.setdefault(name, {})[str(scheme)] = _judged(key, _in_company(key, known), known)
    along = {
        name: Along(measuring.model.inside[name].product.name, known[key].compute)
        for name, key in taken.items()
        if key in known and not known[key].refusal
    }
    return CostTable(measuring.target.name, costs, len(known) - found, found, along)


def _is_inside(measuring: Measuring, group: Group, scheme: Scheme) -> bool:
    """Whether `group` in `scheme` is no kernel of its own."""
    place = measuring.model.inside.get(group.name) if scheme.is_static else None
    return place is not None and all(name in measuring.values for name in place.product.operands)


def _is_seen(group: Group, values: Arrays) -> bool:
    """Whether there are values for all its operands: floats, but for what rows and lengths are whole numbers."""
    seen = all(name in values for name in group.operands)
    return seen and (group.kind in _COUNTING or all(values[name].dtype == "float32" for name in group.operands))


def _key(measuring: Measuring, group: Group, scheme: Scheme) -> RegionKey:
    target, machine = measuring.target, measuring.target.machine
    around = fused(measuring.graph, group)
    if _is_inside(measuring, group, scheme):
        place = measuring.model.inside[group.name]
        product = signature(measuring.graph, place.product, measuring.shapes)
        around += f" in {measuring.graph.node[place.product.name].op} {product}{_TO_FLOATS * (not place.reader)}"
    runtime = target.name.partition(":")[0]
    return RegionKey(
        op=measuring.graph.node[group.name].op,
        signature=signature(measuring.graph, group, measuring.shapes),
        scheme=str(scheme),
        neighbours=around,
        target=target.name,
        target_version=f"{machine.versions.get(runtime, '')}; fewbits {machine.versions.get('fewbits', '')}",
        cpu=machine.cpu,
        features=" ".join(machine.features),
        threads=target.threads,
    )


def _adding_floats(key: RegionKey) -> RegionKey:
    """The same sum with its product in codes, but floats added."""
    return replace(key, neighbours=key.neighbours + _ADDING_FLOATS)


def _measured(
    measuring: Measuring, scheme: Scheme, regions: Mapping[RegionKey, Group]
) -> Iterator[tuple[RegionKey, RegionCost]]:
    """Each region's cost."""
    inside = {key: group for key, group in regions.items() if _is_inside(measuring, group, scheme)}
    apart = {key: group for key, group in regions.items() if key not in inside}
    if apart:
        yield from _in_halves(_side_by_side, measuring, scheme, apart)
    for some in _unconnected(measuring, inside):
        yield from _in_halves(_in_products, measuring, scheme, some)


Look = Callable[[Measuring, Scheme, Mapping[RegionKey, Group]], Mapping[RegionKey, RegionCost]]


def _in_halves(
    look: Look, measuring: Measuring, scheme: Scheme, regions: Mapping[RegionKey, Group]
) -> Iterator[tuple[RegionKey, RegionCost]]:
    """What `look` tells of all regions in one model; where that fails, of two halves."""
    try:
        found = look(measuring, scheme, regions)
    except (ModelError, PlanError, DataError) as error:
        if len(regions) == 1:
            yield next(iter(regions)), _refused(" ".join(str(error).split())[:300])
            return
        items = list(regions.items())
        for half in (items[: len(items) // 2], items[len(items) // 2 :]):
            yield from _in_halves(look, measuring, scheme, dict(half))
        return
    yield from found.items()


def _side_by_side(
    measuring: Measuring, scheme: Scheme, regions: Mapping[RegionKey, Group]
) -> Mapping[RegionKey, RegionCost]:
    """Groups that are kernels of their own."""
    ran = _profiled(measuring, {one.name: scheme for one in regions.values()}, tuple(regions.values()))
    return {key: _priced(scheme, group, ran.get(group.name, ())) for key, group in regions.items()}


def _unconnected(measuring: Measuring, regions: Mapping[RegionKey, Group]) -> Sequence[Mapping[RegionKey, Group]]:
    """`regions` of sums inside products, such that none in a part shares a node with another one of that part."""
    parts: list[tuple[set[str], dict[RegionKey, Group]]] = []
    for key, group in regions.items():
        nodes = set(_with_product(measuring, group).nodes)
        part = next((one for one in parts if one[0].isdisjoint(nodes)), None)
        if part is None:
            part = (set(), {})
            parts.append(part)
        part[0].update(nodes)
        part[1][key] = group
    return [part for _, part in parts]


def _with_product(measuring: Measuring, group: Group) -> Group:
    """The sum `group`, the product that takes it along and the one that reads it, to be cut out as one."""
    place = measuring.model.inside[group.name]
    pieces = (place.product, group, *place.reader)
    operands = [name for one in pieces for name in one.operands if name not in (place.product.output, group.output)]
    nodes = tuple(name for one in pieces for name in one.nodes)
    return replace(group, nodes=nodes, operands=tuple(dict.fromkeys(operands)), output=pieces[-1].output)


def _in_products(
    measuring: Measuring, scheme: Scheme, regions: Mapping[RegionKey, Group]
) -> Mapping[RegionKey, RegionCost]:
    """Sums that products take along: with codes added, and with floats."""
    found = {}
    for key, group in regions.items():
        if not measuring.model.inside[group.name].reader:
            found[key] = _refused(_FLOATS_ADDED)
    regions = {key: group for key, group in regions.items() if key not in found}
    if not regions:
        return found
    places = {group.name: measuring.model.inside[group.name] for group in regions.values()}
    products = {place.product.name: scheme for place in places.values()}
    readers = {one.name: scheme for place in places.values() for one in place.reader}
    pieces = [_with_product(measuring, group) for group in regions.values()]
    alone = _profiled(measuring, products, [place.product for place in places.values()])
    floats = _profiled(measuring, {**products, **readers, **dict.fromkeys(places, FP32)}, pieces)
    codes = _profiled(measuring, {**products, **readers, **dict.fromkeys(places, scheme)}, pieces)
    for key, group in regions.items():
        both = places[group.name].product.name, group.name
        before, plain, coded = (_arithmetic(ran, both) for ran in (alone, floats, codes))
        main = next((node for node in codes.get(both[0], ()) if group.name in node.outputs), None)
        if main is None:
            found[key] = _refused(_FLOATS_ADDED)
            continue
        refusal = "" if _as_asked(scheme, main.precision) else f"{_RAN_IN} {main.precision} ({main.kernel})"
        # What the product reads as codes anyway is encoded for it, and not for the sum.
        encoded = sum(node.seconds for node in codes.get(group.name, ()) if not _computes(node))
        entry = encoded * len(group.operands)
        decided = RegionCost(
            entry, coded - before, max(0.0, plain - coded), main.kernel, main.precision, refusal, _today()
        )
        found[key] = decided
        found[_adding_floats(key)] = replace(decided, entry=0.0, compute=plain - before, exit=0.0, precision="fp32")
    return found


def _arithmetic(ran: Mapping[str, Sequence[Executed]], names: Sequence[str]) -> float:
    """Seconds of what computes for the groups `names`."""
    return sum(node.seconds for name in names for node in ran.get(name, ()) if _computes(node))


def _profiled(
    measuring: Measuring, schemes: Mapping[str, Scheme], pieces: Sequence[Group]
) -> Mapping[str, Sequence[Executed]]:
    """What ran for the groups that `schemes` names, which are all in one of `pieces`."""
    cut = measuring.model.regions(pieces, measuring.shapes)
    graph = cut.model.graph
    names = [*cut.inputs, *(tensor for node in graph.nodes for tensor in node.outputs)]
    is_smoothed = any(one.smoothed for one in schemes.values())
    channels = {name: measuring.values[operand].shape[-1] for name, operand in cut.inputs.items()}
    factors = {name: _factors(count) for name, count in channels.items()} if is_smoothed else {}
    static = any(one.is_static for one in schemes.values())
    stored = any(one.is_weight_only for one in schemes.values())
    plan = Plan(
        cut.model.sha256,
        {name: Choice(str(schemes[name]), "to be measured") for name in sorted(schemes)},
        dict.fromkeys([*names, *map(smoothed, factors)], _RANGE) if static else {},
        target=measuring.target.name,
        smoothing={} if stored else factors,
        scaling=factors if stored else {},
    )
    inputs = {name: measuring.values[operand] for name, operand in cut.inputs.items()}
    executed = measuring.target.executed(cut.model.converted(plan), inputs, _CALLS)
    return assigned(graph, [one for one in grouped(graph) if one.name in schemes], executed)


def _factors(channels: int) -> str:
    """Some factors that differ, so that no runtime takes them for one number."""
    return text(np.where(np.arange(channels) % 2, 2.0, 4.0))


def _priced(scheme: Scheme, group: Group, nodes: Sequence[Executed]) -> RegionCost:
    if not nodes:
        return _refused("the runtime names no kernel for it")
    main = share(group.name, nodes)
    if not main.kernel:
        if group.is_product:
            return _refused("the runtime names no kernel for it")
        # A joint that became one kernel with its conversions, under the name of one of them.
        slowest = max(nodes, key=lambda node: node.seconds)
        return RegionCost(0.0, main.seconds, 0.0, slowest.kernel, slowest.precision, "", _today())
    place = next((index for index, node in enumerate(nodes) if node.kernel == main.kernel), 0)
    arithmetic = [node for node in nodes if _computes(node)]
    before = sum(node.seconds for node in nodes[:place] if not _computes(node))
    after = sum(node.seconds for node in nodes[place:] if not _computes(node))
    compute = sum(node.seconds for node in arithmetic)
    # What a joint computes in depends on what it is fused with; between floats it says nothing.
    as_asked = not group.is_product or _as_asked(scheme, main.precision)
    refusal = "" if as_asked else f"{_RAN_IN} {main.precision} ({main.kernel})"
    return RegionCost(before, compute, after, main.kernel, main.precision, refusal, _today())


def _computes(node: Executed) -> bool:
    kernel = node.kernel.rpartition(".")[2]
    return node.precision != "boundary" and not kernel.startswith(_LAYOUT)


def _as_asked(scheme: Scheme, precision: str) -> bool:
    """Whether what ran is what `scheme` says. A weight in codes alone says nothing about the arithmetic."""
    if scheme.is_fp32 or scheme.is_weight_only:
        return True
    if scheme.is_cast:
        return precision == str(scheme)
    is_fp8 = isinstance(scheme.weight, ScaledFormat) and isinstance(scheme.weight.element, FloatFormat)
    return precision == ("fp8" if is_fp8 else "int8")


def _in_company(key: RegionKey, known: Mapping[RegionKey, RegionCost]) -> RegionCost:
    """The cost of `key`; if the region ran in another precision on its own, but others of its operator ran as asked,
    what it would take if it gained as much as they do.

    Cut out of its model, a layer may lose what makes it low: OpenVINO moves the stride of a 1x1 convolution to the
    region's input, past the quantiser. Whether it runs as asked in the whole model is read back there.
    """
    cost = known[key]
    if not cost.refusal.startswith(_RAN_IN):
        return cost
    gains = [
        other.compute / known[_float(one)].compute
        for one, other in known.items()
        if (one.op, one.scheme) == (key.op, key.scheme) and not other.refusal and _is_timed(_float(one), known)
    ]
    if not gains or not _is_timed(_float(key), known):
        return cost
    compute = known[_float(key)].compute * median(gains)
    return RegionCost(cost.entry, compute, cost.exit, cost.kernel, cost.precision, "", cost.taken)


def _is_timed(key: RegionKey, known: Mapping[RegionKey, RegionCost]) -> bool:
    return key in known and known[key].compute > 0


def _float(key: RegionKey) -> RegionKey:
    """The same region in fp32."""
    return replace(key, scheme=str(FP32))


def _judged(key: RegionKey, cost: RegionCost, known: Mapping[RegionKey, RegionCost]) -> RegionCost:
    """`cost`, refused if it is a cliff beside fp32."""
    float_cost = known.get(_float(key))
    if cost.refusal or key.scheme == str(FP32) or key.op == _LOOK_UP:
        return cost
    if " ref" in cost.kernel:
        return _with_refusal(cost, f"a reference kernel ran it ({cost.kernel})")
    # Without getting in and out, which neighbours in the same scheme spare: a sum between codes has neither.
    if float_cost is not None and cost.compute > CLIFF * float_cost.total > 0:
        return _with_refusal(cost, f"{cost.compute / float_cost.total:.1f} times slower than fp32 ({cost.kernel})")
    return cost


def _with_refusal(cost: RegionCost, refusal: str) -> RegionCost:
    return RegionCost(cost.entry, cost.compute, cost.exit, cost.kernel, cost.precision, refusal, cost.taken)


def _refused(reason: str) -> RegionCost:
    return RegionCost(0.0, 0.0, 0.0, "", "", reason, _today())


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
