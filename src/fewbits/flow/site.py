"""One runtime that could serve the model, with what the model's groups may become there and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits.costs.table import CostTable
from fewbits.models.protocol import Artifact
from fewbits.space import Space
from fewbits.targets.protocol import Target


@dataclass(frozen=True)
class Site:
    """`space` is what can be asked for until `costs` are measured, and what really runs afterwards."""

    target: Target
    space: Space
    costs: CostTable

    @property
    def name(self) -> str:
        """The target's."""
        return self.target.name


@dataclass(frozen=True)
class Rival:
    """A runtime that serves another representation of the model: the original is timed there too, as `original`."""

    target: Target
    original: Artifact
