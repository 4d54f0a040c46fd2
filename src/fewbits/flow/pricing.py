"""What every group costs in every scheme on every runtime, and which schemes turn out not to be there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fewbits.costs.cache import CostCache
from fewbits.costs.measured import Measuring, cost_table
from fewbits.costs.table import CostTable
from fewbits.data.batches import Arrays, Batch
from fewbits.flow.job import Job
from fewbits.flow.probing import NO_TIME, probe_in_time
from fewbits.flow.site import Site
from fewbits.formats.scheme import FP32, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.space import Refusal


def price(job: Job) -> tuple[Site, ...]:
    """The sites of `job` with measured costs, their spaces without what the runtimes refuse.

    Regions that were measured on this machine before, in whatever model, are not measured again.
    """
    if not any(site.space.free for site in job.sites):
        return job.sites
    values = _operands(job)
    with CostCache.open(job.cache) as cache:
        tables = [
            job.journal.step("costs", site.name, CostTable, partial(_measure, job, site, values, cache))
            for site in job.sites
        ]
        for remark in cache.remarks:
            job.progress.say(remark)
    return tuple(_narrowed(job, site, table) for site, table in zip(job.sites, tables, strict=True))


def _operands(job: Job) -> Arrays:
    """What the groups read in the call whose latency counts: their operands, and what no scheme touches."""
    free = frozenset[str]().union(*(site.space.free for site in job.sites))
    wanted = [group for group in job.groups if group.name in free]
    products = [job.model.inside[group.name].product for group in wanted if group.name in job.model.inside]
    read = (*wanted, *products)
    names = dict.fromkeys(name for group in read for name in (*group.operands, *_beside(job.graph, group)))
    (values,) = job.observe([Batch(job.inputs)], list(names))
    return values


def _beside(graph: Graph, made: Group) -> Sequence[str]:
    """The mask of an attention that is one call."""
    if made.kind is not Kind.ATTENTION:
        return ()
    read = graph.node[made.name].inputs
    return [name for name in read if name and name not in made.operands and not graph.is_constant(name)]


def _measure(job: Job, site: Site, values: Arrays, cache: CostCache) -> CostTable:
    job.original.rest()
    wanted = {name: schemes for name, schemes in site.space.schemes.items() if len(schemes) > 1}
    measuring = Measuring(job.model, site.target, job.groups, values, job.progress)
    if not job.deadline.is_set:
        return cost_table(measuring, wanted, cache)
    return probe_in_time(job.deadline, wanted, lambda part: cost_table(measuring, part, cache))


def _narrowed(job: Job, site: Site, table: CostTable) -> Site:
    refused: dict[str, Sequence[Refusal]] = {
        name: [
            Refusal(Scheme.parse(scheme), cost.refusal)
            for scheme, cost in costs.items()
            # The model as it is runs, whatever became of a piece of it.
            if cost.refusal and scheme != str(FP32)
        ]
        for name, costs in table.costs.items()
    }
    gone = sorted({str(refusal.scheme) for one in refused.values() for refusal in one if refusal.reason != NO_TIME})
    if gone:
        job.progress.say(f"{site.name} does not run everywhere: {', '.join(gone)}")
    return Site(site.target, site.space.without(refused), table)
