"""Looking at a model, and applying a plan to one, without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.graph import Graph
from fewbits.grouping import Group, group
from fewbits.models import ModelSource, open_model
from fewbits.models.protocol import Artifact
from fewbits.plan import Plan
from fewbits.space import Rule, Space, candidates
from fewbits.targets import open_target


@dataclass(frozen=True)
class Inspection:
    """A model's graph, its groups, and what each may become on a target."""

    graph: Graph
    groups: tuple[Group, ...]
    space: Space


def inspect(model: ModelSource, target: str = "auto", threads: int = 0, rules: Sequence[Rule | str] = ()) -> Inspection:
    """The groups of `model` and their menu on `target` under `rules`.

    Raises:
        ModelError, TargetError, UsageError: as `open_model` and `open_target`.
    """
    graph = open_model(model).graph
    runtime = open_target(target, threads)
    groups = group(graph)
    read = [Rule.parse(rule) if isinstance(rule, str) else rule for rule in rules]
    return Inspection(graph, groups, candidates(groups, read, lambda one: runtime.menu(graph, one)))


def convert(model: ModelSource, plan: Plan | str | Path) -> Artifact:
    """`model` under `plan` (or the plan in a file), without searching again.

    Raises:
        ModelError, PlanError: the model or the plan cannot be read, or they do not belong together.
    """
    return open_model(model).converted(plan if isinstance(plan, Plan) else Plan.load(Path(plan)))
