"""A plan applied to a program: fold, cast, and hand out as a module."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import fx

from fewbits.codes import Codes
from fewbits.eligibility import module_obstacle
from fewbits.errors import PlanError
from fewbits.formats.floating import BF16, FP16, FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import TF32, Scheme
from fewbits.graph import Graph, Kind, Tensor
from fewbits.grouping import JOINTS, PRODUCTS, Group, group
from fewbits.models.protocol import TORCH_EMULATED
from fewbits.models.pytorch.casting import cast, gives_float, spread
from fewbits.models.pytorch.converted import Converted, Label
from fewbits.models.pytorch.folding import Folded, fold
from fewbits.models.pytorch.graph import Described
from fewbits.models.pytorch.lowering import Wanted, lower
from fewbits.models.pytorch.program import Program, holder
from fewbits.models.pytorch.smoothing import smooth
from fewbits.models.torch_ops.emulated_layers import Emulated
from fewbits.models.torch_ops.module import Layer
from fewbits.plan import Plan

_DTYPES = {BF16: torch.bfloat16, FP16: torch.float16}


def convert(program: Program, described: Described, plan: Plan, codes: Codes) -> Converted:
    """`program` under `plan`; `codes` has those of weights that the plan names. Weights that stay as they are, are
    shared with it.

    Raises:
        PlanError: the plan names a group that the model does not have, a scheme that the group cannot have, or lacks a
            range, or codes of it are missing.
    """
    graph = described.graph
    low = _low(graph, plan, emulates=plan.target == TORCH_EMULATED)
    schemes = {name: plan.scheme(name) for name in low}
    if not low:
        return plain(program, described)
    every = group(graph)
    folded = fold(program, [described.calls[name] for name, made in low.items() if _holds_norm(graph, made)])
    coded = [made for name, made in low.items() if _is_module(schemes[name])]
    smoothed = smooth(folded, described, coded, schemes, plan)
    missing = sorted(set(plan.kept) - set(described.calls))
    if missing:
        raise PlanError(f"the plan keeps nodes in fp32 that the model does not have: {', '.join(missing[:5])}")
    folded = smoothed.folded
    lowered = lower(folded.program, described, folded.made, _wanted(folded, described, coded, schemes, plan, codes))
    made = {old: lowered.made[new] for old, new in folded.made.items() if new in lowered.made}
    decided = _decisions(described, schemes, plan.kept, made)
    decided |= {node: _given(module) for node, module in lowered.modules.items()}
    decided |= {node: None if dtype == torch.float32 else dtype for node, dtype in lowered.encoded.items()}
    endless = {made[call] for name, call in described.values.items() if not graph.tensors[name].finite and call in made}
    found = cast(lowered.program, spread(lowered.program, decided, endless), endless, wide_weights=plan.wide_weights)
    found.graph.lint()
    called = [str(node.target) for node in found.graph.nodes if node.op == "call_module"]
    modules = {name: lowered.program.module.get_submodule(name) for name in called}
    divisions = {lowered.made[node]: name for node, name in smoothed.divisions.items()}
    known = {**_stands(described, made), **divisions, **lowered.names}
    stands = {found.made[node]: name for node, name in known.items() if node in found.made}
    stands |= {node: f"{known.get(of, of.name)}.{what}" for (of, what), node in found.casts.items()}
    kernels = {found.made[node]: module for node, module in lowered.modules.items()}
    along = {found.made[node]: (name,) for node, name in lowered.along.items()}
    return Converted(
        fx.GraphModule(holder(found.tensors, modules), found.graph),
        program.call,
        {one.name: str(schemes.get(one.name, Scheme())) for one in every},
        _labels(found.graph, stands, kernels, along),
        _reads(graph),
        [lowered.names[node] for node, module in lowered.modules.items() if not module.anywhere],
    )


def _wanted(
    folded: Folded,
    described: Described,
    coded: Sequence[Group],
    schemes: Mapping[str, Scheme],
    plan: Plan,
    codes: Codes,
) -> Wanted:
    """How the `coded` groups of the plan become modules."""
    groups = [made for made in coded if made.kind not in JOINTS]
    decided = _decisions(described, schemes, plan.kept, folded.made)
    small = _between_casts(folded, described, groups, decided)
    inside = {folded.made[described.calls[made.name]]: small.get(made.name) for made in groups}
    types = spread(folded.program, {**decided, **inside})
    joints = [made for made in coded if made.kind in JOINTS]
    return Wanted(groups, joints, plan, codes, small, types, emulates=plan.target == TORCH_EMULATED)


def _between_casts(
    folded: Folded, described: Described, coded: Sequence[Group], decided: Mapping[fx.Node, torch.dtype | None]
) -> Mapping[str, torch.dtype]:
    """The `coded` groups that stand in a region of one small float: all that they read is of that type, if they are."""
    types_there = {kind for kind in decided.values() if kind is not None}
    if len(types_there) != 1:
        return {}
    (dtype,) = types_there
    calls = {made.name: [folded.made[described.calls[name]] for name in made.nodes] for made in coded}
    while True:
        small = {call: dtype for own in calls.values() for call in own}
        types = spread(folded.program, {**decided, **small})
        outside = [name for name, own in calls.items() if not _reads_only(own[0], types, dtype)]
        if not outside:
            return dict.fromkeys(calls, dtype)
        for name in outside:
            del calls[name]


def _decisions(
    described: Described, schemes: Mapping[str, Scheme], kept: Collection[str], made: Mapping[fx.Node, fx.Node]
) -> dict[fx.Node, torch.dtype | None]:
    """The type of every call that a plan decides about, ``None`` for float32; a sum that masks is no choice. The calls
    `kept` stay in float32."""
    found: dict[fx.Node, torch.dtype | None] = {}
    for one in group(described.graph):
        scheme = schemes.get(one.name, Scheme())
        if one.name in schemes or one.is_product or one.kind is Kind.GATHER or _is_finite(described.graph, one):
            calls = [described.calls[name] for name in one.nodes]
            found |= {made[call]: _dtype(scheme) for call in calls if call in made}
    return found | {made[described.calls[name]]: None for name in kept if described.calls[name] in made}


def _reads_only(node: fx.Node, types: Mapping[fx.Node, torch.dtype], dtype: torch.dtype) -> bool:
    """Whether every float that `node` reads is of `dtype`, and there is one."""
    floats = [source for source in node.all_input_nodes if gives_float(source) and source.op != "get_attr"]
    return bool(floats) and all(types.get(source) == dtype for source in floats)


def _given(module: Layer) -> torch.dtype | None:
    """The type that `module` reads and gives, where it is a small one."""
    return module.call.result if module.call.result in _DTYPES.values() else None


def plain(program: Program, described: Described) -> Converted:
    """`program` as it is."""
    schemes = {made.name: "fp32" for made in group(described.graph)}
    labels = _labels(program.graph, described.names, {}, {})
    return Converted(program.module, program.call, schemes, labels, _reads(described.graph))


def _stands(described: Described, made: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, str]:
    """What calls stand for: a node of the graph, or an input."""
    found = {made[call]: name for name, call in described.calls.items() if call in made}
    inputs = {made[call]: name for name, call in described.values.items() if call.op == "placeholder" and call in made}
    return {**inputs, **found}


def _labels(
    graph: fx.Graph,
    known: Mapping[fx.Node, str],
    modules: Mapping[fx.Node, Layer],
    along: Mapping[fx.Node, tuple[str, ...]],
) -> Sequence[Label]:
    """A label for every call of `graph`; `along` has the sums that calls take along."""
    calls = [node for node in graph.nodes if node.op in ("call_function", "call_module")]
    return [
        Label(known.get(node, node.name), modules[node].computes, _precision(modules[node]), along.get(node, ()))
        if node in modules
        else Label(known.get(node, node.name))
        for node in calls
    ]


def _precision(module: Layer) -> str:
    """What a module multiplies in, in the words of a target."""
    scheme = module.call.scheme
    if isinstance(module, Emulated):
        return "fp32"
    if scheme == TF32:
        return "tf32"
    if scheme.is_weight_only or not isinstance(scheme.activation, ScaledFormat):
        return "fp32"
    return f"int{scheme.activation.element.bits}" if isinstance(scheme.activation.element, IntFormat) else "fp8"


def _is_module(scheme: Scheme) -> bool:
    """Whether it takes a module of ours to compute so: casts do with the framework's own calls."""
    return not scheme.is_cast or scheme == TF32


def _reads(graph: Graph) -> Sequence[Tensor]:
    return tuple(graph.tensors[name] for name in graph.inputs)


def _low(graph: Graph, plan: Plan, *, emulates: bool) -> Mapping[str, Group]:
    groups = {made.name: made for made in group(graph)}
    unknown = sorted(plan.low - set(groups))
    if unknown:
        raise PlanError(f"the plan names groups that the model does not have: {', '.join(unknown[:5])}")
    low = {name: made for name, made in groups.items() if name in plan.low}
    for name, made in low.items():
        reason = (_unrounded if emulates else module_obstacle)(graph, made, plan.scheme(name))
        if reason:
            raise PlanError(f"the plan has {name} in {plan.scheme(name)}, but {reason}; set it to fp32")
    return low


def _unrounded(graph: Graph, made: Group, scheme: Scheme) -> str:
    """Why the operands of a group cannot be rounded to any format; "" if they can."""
    if scheme.is_cast:
        return module_obstacle(graph, made, scheme)
    if made.kind not in (*PRODUCTS, Kind.GATHER) or made.kind is Kind.CONV_TRANSPOSE:
        return "only linear layers, convolutions, products and tables are emulated"
    return ""


def _dtype(scheme: Scheme) -> torch.dtype | None:
    return _DTYPES.get(scheme.weight) if isinstance(scheme.weight, FloatFormat) else None


def _is_finite(graph: Graph, made: Group) -> bool:
    return all(graph.tensors[name].finite for name in (*made.operands, made.output))


def _holds_norm(graph: Graph, made: Group) -> bool:
    return made.kind in (Kind.CONV, Kind.CONV_TRANSPOSE) and any(
        graph.node[name].kind is Kind.BATCH_NORM for name in made.nodes
    )
