"""``fewbits inspect``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from fewbits.cli.arguments import Model, Target, Threads
from fewbits.cli.output import show
from fewbits.report.table import paragraph, table
from fewbits.report.words import shortened, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewbits.flow import Inspection
    from fewbits.formats.scheme import Scheme
    from fewbits.graph import Graph
    from fewbits.space import Space


def inspect(
    model: Model,
    target: Target = "auto",
    threads: Threads = 0,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB=SCHEME", help="Show what this rule does; may be given again.", show_default=False),
    ] = None,
) -> None:
    """Show MODEL's graph, its groups, and what each group may become and why not."""
    from fewbits import flow
    from fewbits.space import Rule

    rules = tuple(Rule.parse(text) for text in rule or ())
    show(describe(str(model), flow.inspect(model, target=target, threads=threads, rules=rules)))


def describe(name: str, inspection: Inspection) -> str:
    """`inspection` of the model `name` as text."""
    graph, space = inspection.graph, inspection.space
    grouped = {node for group in inspection.groups for node in group.nodes}
    operations = Counter(node.op for node in graph.nodes)
    lines = [
        f"{shortened(name, 90)}: {len(graph.nodes)} nodes, {_count(sum(map(graph.macs, graph.nodes)))} MACs per sample",
        "",
    ]
    lines += table(("", "name", "type", "shape"), _ends(graph))
    lines += ["", "Operations"]
    lines += table(("", ""), [(f"{count} x", op) for op, count in operations.most_common()])[1:]
    if not inspection.groups:
        return "\n".join([*lines, "", "No group: nothing in this model can leave fp32."]) + "\n"
    reasons: dict[str, int] = {}
    rows = []
    for group in inspection.groups:
        numbers = [
            reasons.setdefault(f"{refusal.scheme}: {refusal.reason}", len(reasons) + 1)
            for refusal in space.refusals.get(group.name, ())
        ]
        rows.append(
            (
                shortened(group.name, 44),
                str(group.kind),
                str(len(group.nodes)),
                _count(sum(graph.macs(graph.node[node]) for node in group.nodes)),
                _becomes(space.schemes[group.name]),
                " ".join(f"[{number}]" for number in dict.fromkeys(numbers)),
            )
        )
    title = f"Groups ({len(space.free)} of {len(inspection.groups)} can leave fp32"
    lines += ["", f"{title}; nodes in no group: {len(graph.nodes) - len(grouped)})"]
    lines += table(("group", "kind", "nodes", "MACs", "may become", "why not"), rows, right=(2, 3))
    lines += [
        "",
        *(line for reason, number in reasons.items() for line in paragraph(f"[{number}] {reason}", hang="    ")),
    ]
    lines += [*_pairs(space), *space.remarks]
    return "\n".join(lines).rstrip() + "\n"


def _becomes(schemes: Sequence[Scheme]) -> str:
    """What sort of arithmetic `schemes` are."""
    pairs = sum(scheme.is_static for scheme in schemes)
    sorts = dict.fromkeys(
        f"{pairs} pairs of codes" if scheme.is_static and pairs > 1 else scheme.sort for scheme in schemes
    )
    return ", ".join(sorts)


def _pairs(space: Space) -> list[str]:
    """The texts of static schemes, where a group may have several."""
    several = [schemes for schemes in space.schemes.values() if sum(scheme.is_static for scheme in schemes) > 1]
    texts = dict.fromkeys(str(scheme) for schemes in several for scheme in schemes if scheme.is_static)
    return paragraph(f"Pairs of codes: {', '.join(texts)}", hang="    ") if texts else []


def _ends(graph: Graph) -> list[tuple[str, str, str, str]]:
    return [
        (side, shortened(name, 44), tensor.dtype, _shape(tensor.shape))
        for side, names in (("input", graph.inputs), ("output", graph.outputs))
        for name, tensor in ((name, graph.tensors[name]) for name in names)
    ]


def _shape(shape: tuple[int | str, ...] | None) -> str:
    return "unknown" if shape is None else " x ".join(map(str, shape)) or "scalar"


def _count(value: int) -> str:
    """`value` with a decimal unit: ``812``, ``3.4 k``, ``4.1 G``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{significant(value / size, 2)} {unit}"
    return str(value)
