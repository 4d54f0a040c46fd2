"""Everything a run works on, opened and checked before the first figure is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fewbits.budget import Budget
from fewbits.data.batches import Arrays
from fewbits.errors import ModelError
from fewbits.evaluation import Evaluator, Predict
from fewbits.flow.conversions import Conversions
from fewbits.flow.scratch import write_scratch
from fewbits.formats.scheme import FP32
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.models.protocol import Model
from fewbits.placement import between_codes, settle
from fewbits.plan import Choice, Plan
from fewbits.progress import Progress
from fewbits.space import Space
from fewbits.store import Journal
from fewbits.targets.protocol import Target
from fewbits.verify.acceptance import Objective
from fewbits.verify.splits import Splits

EVALUATION_BATCH = 16


@dataclass(frozen=True)
class Job:
    """One run's model, target, data and goal. `inputs` is what one call gets when latency is measured,
    `scratch` a folder for files that only the measuring processes read."""

    model: Model
    conversions: Conversions
    target: Target
    groups: tuple[Group, ...]
    space: Space
    evaluator: Evaluator
    original: Predict
    budget: Budget
    objective: Objective
    splits: Splits
    inputs: Arrays
    calibration_method: str
    journal: Journal
    scratch: Path
    progress: Progress

    @property
    def graph(self) -> Graph:
        """The model's graph."""
        return self.model.graph

    @property
    def baseline_evaluations(self) -> int:
        """Full evaluations of the original before the search: two show whether a function of the user's repeats."""
        return 1 if self.evaluator.uses_split else 2

    def plan(self, low: Mapping[str, str], ranges: Mapping[str, tuple[float, float]], calibration: str) -> Plan:
        """`low` (group → why) in their low scheme, as far as they keep a neighbour; the rest in fp32."""
        kept = settle(self.graph, self.groups, low)
        joined = between_codes(self.graph, self.groups, kept) & set(self.space.low)
        choices = {}
        for group in self.groups:
            if group.name in kept or group.name in joined:
                why = low.get(group.name, "it reads and gives codes, so computing on them costs no accuracy")
                choices[group.name] = Choice(str(self.space.low[group.name]), why)
            else:
                choices[group.name] = Choice(str(FP32), self.why_not(group.name, low))
        return Plan(self.model.sha256, choices, ranges, target=self.target.name, calibration=calibration)

    def why_not(self, name: str, low: Mapping[str, str]) -> str:
        """Why the group `name` stays in fp32."""
        refusals = self.space.refusals.get(name, ())
        if refusals and name not in self.space.low:
            return refusals[0].reason
        if name in low:
            return "no neighbour left that computes on integers"
        return "the placement that was fastest end to end leaves it in fp32"

    def candidate_file(self, name: str, content: bytes) -> Path:
        """A file that holds `content`, for a measuring process. Raises StorageError."""
        return write_scratch(self.scratch / f"{name}.onnx", content)


def refuse_quantised(graph: Graph) -> None:
    """Raise ModelError if the model computes in low precision already."""
    found = [node for node in graph.nodes if node.kind is Kind.QUANTIZE]
    if found:
        raise ModelError(
            f"the model is already quantised: {len(found)} nodes such as {found[0].name} ({found[0].op}); "
            "give the float model that it was made from"
        )
