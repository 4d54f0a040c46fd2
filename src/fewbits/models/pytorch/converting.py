"""A plan applied to a program: fold, cast, and hand out as a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from fewbits.eligibility import obstacle
from fewbits.errors import PlanError
from fewbits.formats.floating import BF16, FP16, FloatFormat
from fewbits.formats.scheme import Scheme
from fewbits.graph import Graph, Kind, Tensor
from fewbits.grouping import Group, group
from fewbits.models.pytorch.casting import cast, spread
from fewbits.models.pytorch.converted import Converted
from fewbits.models.pytorch.folding import fold
from fewbits.models.pytorch.graph import Described
from fewbits.models.pytorch.program import Program, holder
from fewbits.plan import Plan

_DTYPES = {BF16: torch.bfloat16, FP16: torch.float16}


def convert(program: Program, described: Described, plan: Plan) -> Converted:
    """`program` under `plan`. Weights that stay as they are, are shared with it.

    Raises:
        PlanError: the plan names a group that the model does not have, or a scheme that the group cannot have.
    """
    low = _low(described.graph, plan)
    schemes = {name: plan.scheme(name) for name in low}
    if not low:
        return plain(program, described)
    norms = [described.calls[name] for name, made in low.items() if _holds_norm(described.graph, made)]
    folded = fold(program, norms)
    every = group(described.graph)
    decided: dict[fx.Node, torch.dtype | None] = {}
    for made in every:
        scheme = schemes.get(made.name, Scheme())
        if not scheme.is_fp32 or made.is_product or made.kind is Kind.GATHER or _is_finite(described.graph, made):
            for node in made.nodes:
                decided[folded.made[described.calls[node]]] = _dtype(scheme)
    endless = {
        folded.made[call]
        for name, call in described.values.items()
        if not described.graph.tensors[name].finite and call in folded.made
    }
    labels = {folded.made[call]: name for name, call in described.calls.items()}
    labels |= {folded.made[call]: name for name, call in described.values.items() if call.op == "placeholder"}
    types = spread(folded.program, decided, endless)
    found = cast(folded.program, types, endless)
    found.graph.lint()
    module = fx.GraphModule(holder(found.tensors), found.graph)
    stands = {made: labels[before] for before, made in found.made.items() if before in labels}
    stands |= {node: f"{labels.get(source, source.name)}.{what}" for (source, what), node in found.casts.items()}
    every_scheme = {made.name: str(schemes.get(made.name, Scheme())) for made in every}
    return Converted(module, program.call, every_scheme, _labels(found.graph, stands), _reads(described.graph))


def plain(program: Program, described: Described) -> Converted:
    """`program` as it is."""
    schemes = {made.name: "fp32" for made in group(described.graph)}
    labels = _labels(program.graph, described.names)
    return Converted(program.module, program.call, schemes, labels, _reads(described.graph))


def _labels(graph: fx.Graph, known: Mapping[fx.Node, str]) -> Sequence[str]:
    """A label for every call of `graph`."""
    return [known.get(node, node.name) for node in graph.nodes if node.op in ("call_function", "call_module")]


def _reads(graph: Graph) -> Sequence[Tensor]:
    return tuple(graph.tensors[name] for name in graph.inputs)


def _low(graph: Graph, plan: Plan) -> Mapping[str, Group]:
    groups = {made.name: made for made in group(graph)}
    unknown = sorted(plan.low - set(groups))
    if unknown:
        raise PlanError(f"the plan names groups that the model does not have: {', '.join(unknown[:5])}")
    low = {name: made for name, made in groups.items() if name in plan.low}
    for name, made in low.items():
        reason = obstacle(graph, made, plan.scheme(name), gives_floats=True, casts_tables=True)
        if reason:
            raise PlanError(f"the plan has {name} in {plan.scheme(name)}, but {reason}; set it to fp32")
    return low


def _dtype(scheme: Scheme) -> torch.dtype | None:
    return _DTYPES[scheme.weight] if isinstance(scheme.weight, FloatFormat) else None


def _is_finite(graph: Graph, made: Group) -> bool:
    return all(graph.tensors[name].finite for name in (*made.operands, made.output))


def _holds_norm(graph: Graph, made: Group) -> bool:
    return made.kind in (Kind.CONV, Kind.CONV_TRANSPOSE) and any(
        graph.node[name].kind is Kind.BATCH_NORM for name in made.nodes
    )
