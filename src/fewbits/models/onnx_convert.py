"""A plan applied to an ONNX model: fold, lower, quantise, clean up."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from fewbits import __about__
from fewbits.codes import FILE, Codes
from fewbits.dialect import Dialect, dialect
from fewbits.eligibility import obstacle
from fewbits.errors import PlanError
from fewbits.formats.scheme import Scheme
from fewbits.formats.text import format_text
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group, group
from fewbits.models.onnx_annex import annex_of, attach
from fewbits.models.onnx_bias import CorrectBiases
from fewbits.models.onnx_cast import CancelCasts, CastOperands
from fewbits.models.onnx_emulate import EmulateRounding
from fewbits.models.onnx_fold import FoldBatchNorm
from fewbits.models.onnx_gemm import FoldGemmFactors, GemmToMatMul
from fewbits.models.onnx_graph import graph_of
from fewbits.models.onnx_isolate import IsolateFloat, SeparateActivations, ShieldBodies
from fewbits.models.onnx_lower import MatMulToGemm
from fewbits.models.onnx_maximum import LimitMaxima
from fewbits.models.onnx_opset import raised
from fewbits.models.onnx_quantize import InsertQuantizers
from fewbits.models.onnx_recurrent import CodeRecurrent, StoreRecurrent
from fewbits.models.onnx_smooth import SmoothOperands
from fewbits.models.onnx_spread import SpreadCasts
from fewbits.models.onnx_store import StoreWeights
from fewbits.models.onnx_table import CodeTables
from fewbits.placement import place
from fewbits.plan import Plan


def convert(model: ir.Model, graph: Graph, plan: Plan, codes: Codes) -> ir.Model:
    """`model` under `plan`; `codes` has those of weights that the plan names.

    `model` itself is left as it was; weights that stay as they are, are shared with it.

    Raises:
        PlanError: the plan names a group that the model does not have or that cannot be quantised, or lacks a range,
            or codes of it are missing or do not fit.
    """
    form = dialect(plan.target)
    low = _low(graph, plan, form)
    schemes = {name: plan.scheme(name) for name in low}
    folded = FoldBatchNorm([name for name, made in low.items() if _holds_norm(graph, made)])
    coded = [name for name, scheme in schemes.items() if not scheme.is_cast]
    copy = _passed(attach(model.clone(), annex_of(model)), folded, FoldGemmFactors(coded))
    copy = (
        _emulated(copy, schemes, plan)
        if form.emulates
        else _coded(copy, low, schemes, plan, form, _of_groups(schemes, plan, codes))
    )
    copy = raised(_passed(copy, common.TopologicalSortPass()))
    copy = _passed(copy, common.ClearMetadataAndDocStringPass())
    copy.producer_name, copy.producer_version = "fewbits", __about__.VERSION
    copy.metadata_props["fewbits.plan_for"] = plan.model_sha256
    return copy


def _emulated(copy: ir.Model, schemes: Mapping[str, Scheme], plan: Plan) -> ir.Model:
    """`copy` as a float model that rounds."""
    groups = {made.name: made for made in group(graph_of(copy))}
    return _passed(copy, EmulateRounding(groups, schemes, plan.ranges), common.RemoveUnusedNodesPass())


def _coded(
    copy: ir.Model,
    low: Mapping[str, Group],
    schemes: Mapping[str, Scheme],
    plan: Plan,
    form: Dialect,
    codes: Codes,
) -> ir.Model:
    """`copy` with codes and casts, in the form that a runtime wants."""
    static = {name: made for name, made in low.items() if schemes[name].is_static}
    copy = _passed(copy, SmoothOperands(low, schemes, plan.smoothing, plan.scaling))
    stored = [name for name, scheme in schemes.items() if scheme.dynamic or scheme.is_weight_only]
    lower = MatMulToGemm(static if form.gemm else {})
    copy = _passed(copy, GemmToMatMul(stored), lower, common.RemoveUnusedNodesPass())
    lowered = graph_of(copy)
    groups = {made.name: made for made in group(lowered)}
    placement = place(lowered, tuple(groups.values()), schemes, repeats=form.repeats)
    aliases = {new: plan.ranges[old] for new, old in lower.aliases.items() if old in plan.ranges}
    means = {new: plan.means[old] for new, old in lower.aliases.items() if old in plan.means}
    coded = {name: schemes[name] for name in static}
    return _passed(
        copy,
        StoreWeights(schemes, codes, blocks=form.blocks),
        CodeRecurrent(schemes),
        StoreRecurrent(schemes),
        CodeTables(schemes, decoded=not form.blocks),
        CorrectBiases(groups, coded, ChainMap(dict(plan.means), means), codes),
        InsertQuantizers(groups, coded, placement, ChainMap(dict(plan.ranges), aliases), codes),
        *((LimitMaxima(),) if form.limits else ()),
        CastOperands(groups, schemes, wide_weights=plan.wide_weights),
        *((SpreadCasts([*_decided(lowered, groups.values()), *plan.kept], _endless(lowered)),) if form.spreads else ()),
        CancelCasts(),
        common.RemoveUnusedNodesPass(),
        *((IsolateFloat(static), SeparateActivations(static), ShieldBodies()) if form.isolates else ()),
        common.RemoveUnusedNodesPass(),
    )


def _of_groups(schemes: Mapping[str, Scheme], plan: Plan, codes: Codes) -> Codes:
    """The codes that `plan` names for the groups of `schemes`, by group."""
    found = {}
    for made, scheme in schemes.items():
        name = plan.codes.get(made)
        if name is None:
            continue
        if name not in codes:
            raise PlanError(
                f"the plan's codes {name} for the weight of {made} are not there; put the {FILE} of the run beside "
                "the plan, or pass codes=result.codes"
            )
        if codes[name].format != scheme.weight:
            raise PlanError(
                f"the plan has the group {made} in {scheme}, but its codes are {format_text(codes[name].format)}; "
                "tune again"
            )
        found[made] = codes[name]
    return found


def _low(graph: Graph, plan: Plan, form: Dialect) -> dict[str, Group]:
    groups = {made.name: made for made in group(graph)}
    unknown = sorted(plan.low - set(groups))
    if unknown:
        raise PlanError(f"the plan names groups that the model does not have: {', '.join(unknown[:5])}")
    low = {name: made for name, made in groups.items() if name in plan.low}
    for name, made in low.items():
        reason = obstacle(graph, made, plan.scheme(name), gives_floats=form.emulates)
        if reason:
            raise PlanError(f"the plan has {name} in {plan.scheme(name)}, but {reason}; set it to fp32")
    return low


def _endless(graph: Graph) -> list[str]:
    return [name for name, tensor in graph.tensors.items() if not tensor.finite]


def _decided(graph: Graph, groups: Iterable[Group]) -> list[str]:
    """The nodes of the groups that a plan decides about; a sum that masks is no choice, it goes with its neighbours."""
    return [node for made in groups if made.is_product or graph.tensors[made.output].finite for node in made.nodes]


def _holds_norm(graph: Graph, made: Group) -> bool:
    return made.kind in (Kind.CONV, Kind.CONV_TRANSPOSE) and any(
        graph.node[name].kind is Kind.BATCH_NORM for name in made.nodes
    )


def _passed(model: ir.Model, *passes: ir.passes.PassBase) -> ir.Model:
    # One by one: onnx-ir's Sequential would hide a PlanError behind an error of its own.
    for one in passes:
        model = one(model).model
    return model
