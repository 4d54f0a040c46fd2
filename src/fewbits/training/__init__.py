"""Training in low precision: a recipe says what is cast how, `prepare` gives a model that computes so and its step.

The names are resolved on first use, so that recipes can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewbits.training.cell import Cell
    from fewbits.training.communication import rounded_all_reduce
    from fewbits.training.culprit import Culprit
    from fewbits.training.curvature import curvatures
    from fewbits.training.lowering import lower, report
    from fewbits.training.preparing import prepare
    from fewbits.training.recipes import names, recipe
    from fewbits.training.scalers import Dynamic, LayerAdaptive, NoScale, RisingFloor, Static
    from fewbits.training.serving import plan_of
    from fewbits.training.step import Outcome, Status, Step
    from fewbits.training.table import Place, Recipe

__all__ = [
    "Cell",
    "Culprit",
    "Dynamic",
    "LayerAdaptive",
    "NoScale",
    "Outcome",
    "Place",
    "Recipe",
    "RisingFloor",
    "Static",
    "Status",
    "Step",
    "curvatures",
    "lower",
    "names",
    "plan_of",
    "prepare",
    "recipe",
    "report",
    "rounded_all_reduce",
]

_HOMES = {
    "fewbits.training.cell": ("Cell",),
    "fewbits.training.culprit": ("Culprit",),
    "fewbits.training.communication": ("rounded_all_reduce",),
    "fewbits.training.curvature": ("curvatures",),
    "fewbits.training.lowering": ("lower", "report"),
    "fewbits.training.preparing": ("prepare",),
    "fewbits.training.table": ("Place", "Recipe"),
    "fewbits.training.recipes": ("names", "recipe"),
    "fewbits.training.scalers": ("Dynamic", "LayerAdaptive", "NoScale", "RisingFloor", "Static"),
    "fewbits.training.serving": ("plan_of",),
    "fewbits.training.step": ("Outcome", "Status", "Step"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


# Hidden from type checkers, which would take every misspelt name for an object.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'fewbits.training' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
