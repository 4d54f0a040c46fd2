"""For which schemes codes are searched for, and the shapes in which they are searched for and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from fewbits.data.batches import Array
from fewbits.flow.job import Job
from fewbits.flow.site import Site
from fewbits.formats.granularity import Channel
from fewbits.formats.granularity import Group as Block
from fewbits.formats.qtensor import QTensor
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import FP32, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import LAYERS, Group

_FEW_BITS: Final = 4
_MOST_FEATURES: Final = 1152
"""Of a convolution: second moments of more take longer than codes of eight bits are worth."""
_MATRIX: Final = 2


def wanted_schemes(job: Job, *, channels: bool, blocks: bool) -> Mapping[str, Sequence[Scheme]]:
    """The schemes that may be on the front, by group: those of few bits, those of more with a scale for each of the
    `channels`, those of more in `blocks`."""
    found: dict[str, dict[Scheme, None]] = {}
    for site in job.sites:
        for group in job.groups:
            # Tables and recurrent layers round to nearest.
            if not group.is_product:
                continue
            # What equalisation makes of a weight that several read is several weights.
            if job.equalised and len(job.graph.consumers.get(group.weight, ())) > 1:
                continue
            for scheme in site.space.schemes[group.name]:
                if not is_in_few_bits(scheme):
                    sharing = scheme.weight.granularity if isinstance(scheme.weight, ScaledFormat) else None
                    if not (blocks if isinstance(sharing, Block) else channels and isinstance(sharing, Channel)):
                        continue
                    if not _is_rounded_as_it_is(job.graph, group, scheme):
                        continue
                if job.slower_may_pay or _pays(site, group, scheme):
                    found.setdefault(group.name, {})[scheme] = None
    return {name: tuple(schemes) for name, schemes in found.items()}


def is_in_few_bits(scheme: Scheme) -> bool:
    """Whether `scheme` has the weight alone in so few bits, in blocks, that rounding to nearest is not good enough."""
    weight = scheme.weight
    return (
        scheme.is_weight_only
        and isinstance(weight, ScaledFormat)
        and weight.bits <= _FEW_BITS
        and isinstance(weight.granularity, Block)
    )


def rows_format(format: ScaledFormat) -> ScaledFormat:
    """`format` for a weight with its outputs first: blocks lie along the last axis then, along the first as stored."""
    block = format.granularity
    return replace(format, granularity=Block(block.size, -1)) if isinstance(block, Block) else format


def columns_first(codes: QTensor[Array], format: ScaledFormat) -> QTensor[Array]:
    """`codes` of rows as they are stored in `format`: blocks as (depth, columns), others as they are."""
    if not isinstance(format.granularity, Block):
        return codes
    found, scale, zero = (np.ascontiguousarray(array.T) for array in (codes.codes, codes.scale, codes.zero_point))
    return QTensor(found, scale, zero, codes.tensor_scale, codes.table, format, codes.dtype)


def rows_first(codes: QTensor[Array], format: ScaledFormat) -> QTensor[Array]:
    """The inverse of `columns_first`; `format` is that of rows."""
    return columns_first(codes, format)


def has_codes_of_its_own(graph: Graph, group: Group, scheme: Scheme) -> bool:
    """Whether a plan can name codes for the weight of `group` in `scheme`."""
    sharing = scheme.weight.granularity if isinstance(scheme.weight, ScaledFormat) else None
    return is_in_few_bits(scheme) or (
        isinstance(sharing, Block | Channel) and _is_rounded_as_it_is(graph, group, scheme)
    )


def _is_rounded_as_it_is(graph: Graph, group: Group, scheme: Scheme) -> bool:
    """Whether the weight of `group` becomes codes as it is; smoothing, a batch norm or a factor of the product would
    change it first."""
    if scheme.smoothed or not group.weight or group.kind not in LAYERS or len(group.operands) != 1:
        return False
    node, shape = graph.node[group.name], graph.tensors[group.weight].shape
    if shape is None or any(graph.node[name].kind is Kind.BATCH_NORM for name in group.nodes):
        return False
    if group.kind is not Kind.CONV:
        return len(shape) == _MATRIX and node.attributes.get("alpha", 1.0) == 1.0 and node.inputs[1] == group.weight
    depth = [size for size in shape[1:] if isinstance(size, int)]
    return len(depth) == len(shape) - 1 and int(np.prod(depth)) <= _MOST_FEATURES


def _pays(site: Site, group: Group, scheme: Scheme) -> bool:
    """Whether `scheme` may be faster than fp32; conversions of static codes are often spared by neighbours."""
    costs = site.costs.usable(group.name)
    own, float32 = costs.get(str(scheme)), costs.get(str(FP32))
    if own is None or float32 is None:
        return False
    return (own.compute if scheme.is_static else own.total) < float32.total
