"""Hardware that is not at hand: schemes are emulated in float32 on ONNX Runtime, costs come from a model of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fewbits.costs.model import CostModel
from fewbits.costs.plugins import cost_model
from fewbits.costs.predicted import supports
from fewbits.data.batches import Arrays
from fewbits.eligibility import obstacle
from fewbits.formats.scheme import FP32, INT8_PAIR, INT8_STATIC, integers
from fewbits.graph import Graph
from fewbits.grouping import Group
from fewbits.machine import Machine
from fewbits.models.protocol import Artifact
from fewbits.space import Menu, Refusal
from fewbits.targets import SIMULATED
from fewbits.targets.onnxruntime import OnnxRuntime
from fewbits.targets.protocol import Executed, Session

WIDTHS: Final = (8, 4, 2)
"""Bits of weights and activations, in all pairs."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the cost model called `cost_model_name` describes. Nothing that runs here says how fast it is there."""

    cost_model_name: str
    model: CostModel
    runtime: OnnxRuntime

    @classmethod
    def of(cls, cost_model_name: str, threads: int) -> Simulated:
        """With `threads` threads for the emulation, 0 for every core. Raises as `cost_model`; UsageError on more
        threads than cores."""
        return cls(cost_model_name, cost_model(cost_model_name), OnnxRuntime.of(threads))

    @property
    def name(self) -> str:
        """Text that `open_target` reads back."""
        return f"{SIMULATED}:{self.cost_model_name}"

    @property
    def threads(self) -> int:
        """Threads of the emulation."""
        return self.runtime.threads

    @property
    def streams(self) -> int:
        """One: the emulation is not timed."""
        return self.runtime.streams

    @property
    def machine(self) -> Machine:
        """The machine that emulates."""
        return self.runtime.machine

    def menu(self, graph: Graph, group: Group) -> Menu:
        """fp32, and every pair of widths that the cost model has a cost for."""
        if not group.is_product:
            return Menu((FP32,), (Refusal(INT8_PAIR, "only products are emulated and counted"),))
        reason = obstacle(graph, group, INT8_STATIC if group.weight else INT8_PAIR, gives_floats=True)
        if reason:
            return Menu((FP32,), (Refusal(INT8_STATIC, reason),))
        pairs = [integers(w, a, channels=bool(group.weight)) for w in WIDTHS for a in WIDTHS]
        lacks = f"the cost model {self.cost_model_name} has no cost for it"
        return Menu(
            (FP32, *(scheme for scheme in pairs if supports(self.model, group, scheme))),
            tuple(Refusal(scheme, lacks) for scheme in pairs if not supports(self.model, group, scheme)),
        )

    def open(self, artifact: Artifact) -> Session:
        """Load `artifact` for emulation. Raises ModelError."""
        return self.runtime.open(artifact)

    def open_once(self, artifact: Artifact) -> Session:
        """The same: nothing here pays after many calls only."""
        return self.open(artifact)

    def files(self, artifact: Artifact, folder: Path) -> Mapping[str, Path]:
        """None: the emulation is ONNX."""
        return {}

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        """Nothing: how the emulation runs says nothing about the hardware."""
        return ()
