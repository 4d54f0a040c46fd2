"""Ranges of activations for every width that they may have: few bits want to clip more than many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fewbits.flow.calibrate import calibrate_for, choose
from fewbits.flow.job import Job, Ranges, Wish
from fewbits.flow.site import Site
from fewbits.formats.scheme import Scheme, integers
from fewbits.graph import Graph
from fewbits.grouping import Group
from fewbits.placement import formats, operand_formats
from fewbits.plan import Plan


@dataclass(frozen=True)
class WidthRanges:
    """Bits → ranges of what `groups` (by name) of `graph` read; `text` says by which methods they were found."""

    graph: Graph
    groups: Mapping[str, Group]
    by_bits: Mapping[int, Ranges]
    text: str

    def of(self, schemes: Mapping[str, Scheme]) -> Ranges:
        """The ranges for groups in `schemes`; what is read in several widths has the range of the widest."""
        widest: dict[str, int] = {}
        for name, scheme in schemes.items():
            for tensor, format in operand_formats(self.graph, self.groups[name], scheme) if scheme.is_static else ():
                widest[tensor] = max(widest.get(tensor, 0), format.bits)
        return {tensor: self.by_bits[bits][tensor] for tensor, bits in widest.items()}


def calibrate_widths(job: Job, site: Site) -> WidthRanges:
    """Ranges for every width that an activation may have on `site`, by the asked method; where that is left open, by
    the one that has the least output error with all activations in that width."""
    groups = {group.name: group for group in job.groups}
    free = sorted(site.space.free)
    offered = [(name, scheme) for name in free for scheme in site.space.schemes[name] if scheme.is_static]
    wanted = sorted(
        {format.bits for name, one in offered for _, format in operand_formats(job.graph, groups[name], one)},
        reverse=True,
    )
    weights = max(formats(scheme)[1].bits for _, scheme in offered)
    found: dict[int, Ranges] = {}
    methods: dict[int, str] = {}
    for bits in wanted:
        coded = {name: integers(bits, bits, channels=bool(groups[name].weight)) for name in free}
        ranges = calibrate_for(job, coded, f"{bits} bits")
        whole = {
            name: Wish(integers(weights, bits) if groups[name].weight else scheme, "to choose a calibration method")
            for name, scheme in coded.items()
        }

        def plan(name: str, ranges: Mapping[str, Ranges] = ranges, whole: Mapping[str, Wish] = whole) -> Plan:
            return job.plan(site, whole, ranges[name], name)

        methods[bits] = choose(job, ranges, plan, f"{bits} bits")
        found[bits] = ranges[methods[bits]]
    same = len(set(methods.values())) == 1
    text = methods[wanted[0]] if same else ", ".join(f"{bits} bits: {name}" for bits, name in methods.items())
    return WidthRanges(job.graph, groups, found, text)
