"""Activations that a quantiser behind them can take over, because its codes end where they clip."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import onnx_ir as ir

from fewbits.formats.numerics.affine import Affine
from fewbits.grouping import CARRIERS
from fewbits.models.onnx_kinds import kind
from fewbits.models.onnx_names import array_of
from fewbits.placement import Placement

Range = tuple[float, float]


def clips_to(node: ir.Node) -> Range | None:
    """Where a Relu or a Clip ends; None for anything else."""
    if node.domain or node.op_type not in ("Relu", "Clip"):
        return None
    if node.op_type == "Relu":
        return 0.0, inf
    ends = [-inf, inf]
    for index, value in enumerate(node.inputs[1:]):
        if value is not None and value.const_value is None:
            return None
        if value is not None:
            ends[index] = float(array_of(value))
    return ends[0], ends[1]


def absorbed(node: ir.Node, affine: Affine) -> bool:
    """Whether quantising with `affine` gives the same codes, to one step, with `node` in front of it and without."""
    ends = clips_to(node)
    if ends is None:
        return False
    scale, zero = float(affine.scale), int(affine.zero_point)
    low, high = scale * (affine.format.qmin - zero), scale * (affine.format.qmax - zero)
    # The zero point is rounded, so the last codes may stand half a step beyond the range.
    return ends[0] <= low + scale and high - scale <= ends[1]


def absorbed_ranges(graph: ir.Graph, placement: Placement, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` in which a tensor that carries codes straight from an activation does not reach beyond it.

    A concat ties its inputs to the range of the widest; behind a ReLU, that range would have codes for
    negative values, the quantiser could not absorb the ReLU, and the convolution before it would run in
    float. The codes keep their own range up to the concat, which rescales them.
    """
    narrowed = dict(ranges)
    for node in graph:
        for name in (str(value.name) for value in node.outputs):
            if name not in narrowed or name not in placement.writes:
                continue
            ends, source = clips_to(node), "" if node.inputs[0] is None else str(node.inputs[0].name)
            if ends is not None:
                low, high = narrowed[name]
                narrowed[name] = min(max(low, ends[0]), ends[1]), max(min(high, ends[1]), ends[0])
            elif kind(node.domain, node.op_type) in CARRIERS and source in placement.writes:
                narrowed[name] = narrowed.get(source, narrowed[name])
    return narrowed
