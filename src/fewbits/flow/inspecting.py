"""Looking at a model, and applying a plan to one, without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.codes import Codes, beside
from fewbits.data import DataSource
from fewbits.flow.transferring import forced, open_source
from fewbits.graph import Graph
from fewbits.grouping import Group, group
from fewbits.models import ModelSource, open_model
from fewbits.models.protocol import TORCH_EMULATED, Artifact
from fewbits.plan import Plan
from fewbits.space import Rule, Space, candidates
from fewbits.targets import installed, is_simulated, open_target


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


def convert(
    model: ModelSource,
    plan: Plan | str | Path,
    *,
    data: DataSource | None = None,
    codes: Codes | None = None,
    force: bool = False,
) -> Artifact:
    """`model` under `plan` (or the plan in a file), without searching again. `codes` has those of weights that the plan
    names (`Result.codes`); without it they are read from beside the plan's file. `force` applies it to a model with
    other weights than those that it was made for, as far as groups and ranges are there; they round to nearest then.

    A PyTorch module needs `data`, batches such as it is called with; `fewbits.open_module` makes a module of what is
    given back. A plan for its ONNX export has to be carried over first, by `fewbits.plan_for_module`.

    Raises:
        ModelError, DataError, PlanError: the model or the plan cannot be read, or they do not belong together.
    """
    opened = open_source(model, data)
    given = plan if isinstance(plan, Plan) else Plan.load(Path(plan))
    if codes is None:
        codes = {} if isinstance(plan, Plan) or not given.codes else beside(Path(plan))
    opened = opened.knowing(codes)
    if force and given.model_sha256 != opened.sha256:
        given = forced(given, opened)
    return opened.converted(given)


def elsewhere(plan: Plan) -> str:
    """What is different from where `plan` was measured, as a sentence; "" if nothing is or nothing is known."""
    if is_simulated(plan.target) or plan.target == TORCH_EMULATED:
        return f"The plan is for {plan.target}: the model only emulates its rounding, in fp32, and is no faster here."
    runtime = plan.target.partition(":")[0]
    if not plan.machine or plan.target not in installed():
        where = f"{plan.target}, which is not installed here" if plan.target else ""
        return f"The plan was measured on {where}." if where else ""
    here = open_target(plan.target).machine.summary(runtime)
    if here == plan.machine:
        return ""
    return (
        f"The plan was measured elsewhere ({plan.machine}), this is {here}: what was fastest there may be slow here. "
        "Compare with fewbits bench, or measure again with fewbits tune."
    )
