"""A plan applied to an ONNX model: fold, lower, quantise, clean up, check."""

from __future__ import annotations

from collections import ChainMap

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from fewbits import __about__
from fewbits.errors import PlanError
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group, group
from fewbits.models.onnx_fold import FoldBatchNorm
from fewbits.models.onnx_graph import graph_of
from fewbits.models.onnx_lower import MatMulToGemm
from fewbits.models.onnx_quantize import InsertQuantizers
from fewbits.placement import place
from fewbits.plan import Plan


def convert(model: ir.Model, graph: Graph, plan: Plan) -> bytes:
    """The bytes of `model` under `plan`; `model` itself is left as it was.

    Raises:
        PlanError: the plan names a group that the model does not have, or lacks a range.
    """
    groups = {made.name: made for made in group(graph)}
    unknown = sorted(plan.low - set(groups))
    if unknown:
        raise PlanError(f"the plan names groups that the model does not have: {', '.join(unknown[:5])}")
    low = {name: made for name, made in groups.items() if name in plan.low}
    copy = model.clone()
    lower = MatMulToGemm(low, graph)
    folded = FoldBatchNorm([name for name, made in low.items() if _holds_norm(graph, made)])
    copy = _passed(copy, folded, lower, common.RemoveUnusedNodesPass())
    lowered = graph_of(copy)
    regrouped = {made.name: made for made in group(lowered)}
    schemes = {name: plan.scheme(name) for name in low}
    placement = place(lowered, tuple(regrouped.values()), schemes)
    aliases = {new: plan.ranges[old] for new, old in lower.aliases.items() if old in plan.ranges}
    quantise = InsertQuantizers(lowered, regrouped, schemes, placement, ChainMap(dict(plan.ranges), aliases))
    tidy = (common.RemoveUnusedNodesPass(), common.TopologicalSortPass(), common.ClearMetadataAndDocStringPass())
    copy = _passed(copy, quantise, *tidy)
    copy.producer_name, copy.producer_version = "fewbits", __about__.VERSION
    copy.metadata_props["fewbits.plan_for"] = plan.model_sha256
    proto = ir.to_proto(copy)
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


def _holds_norm(graph: Graph, made: Group) -> bool:
    return made.kind is Kind.CONV and any(graph.node[name].kind is Kind.BATCH_NORM for name in made.nodes)


def _passed(model: ir.Model, *passes: ir.passes.PassBase) -> ir.Model:
    # One by one: onnx-ir's Sequential would hide a PlanError behind an error of its own.
    for one in passes:
        model = one(model).model
    return model
