"""Cost models by name: those built in, and those that installed packages bring.

A package offers one under the entry-point group ``fewbits.cost_models``, in its ``pyproject.toml``::

    [project.entry-points."fewbits.cost_models"]
    npu = "my_package.npu:model"

where ``model(argument: str) -> CostModel`` gets what stands behind the colon of ``npu:argument``, "" without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from math import isfinite
from pathlib import Path

from fewbits.costs.counting import BitOperations, PeakMemory, Size
from fewbits.costs.energy import Energy
from fewbits.costs.ipu import InnerProductUnit
from fewbits.costs.lookup import load
from fewbits.costs.model import CostModel, LayerSpec, Width
from fewbits.costs.mpic import Mpic, MpicEnergy
from fewbits.costs.roofline import Roofline
from fewbits.errors import FewbitsError, ToolError, UsageError

GROUP = "fewbits.cost_models"

Factory = Callable[[str], CostModel]


def cost_model(name: str) -> CostModel:
    """The model called `name`, or ``name:argument``: ``size``, ``bops``, ``ram``, ``mpic``, ``mpic-energy``, ``ipu``,
    ``energy``, ``roofline:PEAK,BANDWIDTH`` (bit operations and bytes per second), ``table:FILE`` (.csv or
    .npy, see `fewbits.costs.lookup.load`), or a plug-in's.

    What a plug-in's model answers is checked with every call.
    Raises UsageError if there is none of this name or its argument cannot be read, ToolError, which names the plug-in,
    if one raises, gives what is no cost model, or has a name that is taken.
    """
    word, _, argument = name.partition(":")
    found = _plugins().get(word, ())
    if word in _BUILT_IN and not found:
        return _BUILT_IN[word](argument)
    if not found:
        raise UsageError(f"there is no cost model {word!r}; choose {', '.join(cost_models())}")
    if word in _BUILT_IN or len(found) > 1:
        others = ["fewbits itself"] if word in _BUILT_IN else []
        owners = " and ".join([*others, *map(_owner, found)])
        raise ToolError(f"the cost model {word!r} is offered by {owners}; uninstall what is not wanted")
    return _load(found[0], argument)


def cost_models() -> tuple[str, ...]:
    """The names of all cost models, built in and plugged in, in alphabetical order; no plug-in is loaded."""
    return tuple(sorted({*_BUILT_IN, *_plugins()}))


@dataclass(frozen=True, slots=True)
class PluggedIn:
    """A plug-in's model, whose every answer is checked; `name` says whose it is.

    Raises ToolError, which names the plug-in, where an answer is wrong or it raises.
    """

    name: str
    unit: str
    additive: bool
    model: CostModel

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """What the model says; see `CostModel.supports`."""
        with _running(self.name):
            said: object = self.model.supports(op, w, a)
        if not isinstance(said, bool):
            raise ToolError(f"{self.name} says {said!r} to what it supports, neither True nor False; tell its author")
        return said

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """What the model says; see `CostModel.cost`."""
        with _running(self.name):
            said: object = self.model.cost(layer, w, a, o)
        if isinstance(said, bool) or not isinstance(said, int | float) or not isfinite(said) or said < 0:
            raise ToolError(
                f"{self.name} says that {layer.name} costs {said!r}; a cost is a finite number and not negative. "
                "Tell its author"
            )
        return float(said)


def _plugins() -> Mapping[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUP):
        # A package that is on the path twice (installed, and as a checkout) is one.
        if all((point.value, _owner(point)) != (other.value, _owner(other)) for other in found.get(point.name, ())):
            found[point.name] = (*found.get(point.name, ()), point)
    return found


def _load(point: EntryPoint, argument: str) -> CostModel:
    name = f"the cost model {point.name!r} of {_owner(point)}"
    with _running(name):
        factory: object = point.load()
    if not callable(factory):
        raise ToolError(
            f"{name}: {point.value} is a {type(factory).__name__}; it has to be a function of one text that gives a "
            "cost model. Tell its author"
        )
    with _running(name):
        made: object = factory(argument)
    if not isinstance(made, CostModel):
        raise ToolError(
            f"{name}: {point.value} gave a {type(made).__name__}, which is no cost model (unit, additive, supports, "
            "cost: see fewbits.costs.model.CostModel). Tell its author"
        )
    with _running(name):
        unit, additive = made.unit, made.additive
    if not isinstance(unit, str) or not isinstance(additive, bool):
        raise ToolError(
            f"{name}: unit {unit!r} and additive {additive!r} have to be a text and a bool; tell its author"
        )
    return PluggedIn(name, unit, additive, made)


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


@contextmanager
def _running(name: str) -> Iterator[None]:
    """Around a call of a plug-in: whatever it raises is given its name."""
    try:
        yield
    except FewbitsError:
        raise
    # Somebody else's code may raise anything; nothing is swallowed.
    except Exception as cause:
        raise ToolError(f"{name} raised {type(cause).__name__}: {cause}. Tell its author, or uninstall it") from cause


def _plain(name: str, model: CostModel) -> Factory:
    def made(argument: str) -> CostModel:
        if argument:
            raise UsageError(f"the cost model {name} takes no argument, here {argument!r}; write {name}")
        return model

    return made


def _roofline(argument: str) -> CostModel:
    try:
        peak, bandwidth = map(float, argument.split(","))
    except ValueError as error:
        raise UsageError(
            f"'roofline:{argument}': give bit operations and bytes per second, for example roofline:6.4e13,2e10 for a "
            "peak of 1e12 products of 8 by 8 bits and 20 GB/s"
        ) from error
    return Roofline(peak, bandwidth)


def _table(argument: str) -> CostModel:
    if not argument:
        raise UsageError("give the file of the table, for example table:costs.csv")
    return load(Path(argument))


_BUILT_IN: Mapping[str, Factory] = {
    "size": _plain("size", Size()),
    "bops": _plain("bops", BitOperations()),
    "ram": _plain("ram", PeakMemory()),
    "mpic": _plain("mpic", Mpic()),
    "mpic-energy": _plain("mpic-energy", MpicEnergy()),
    "ipu": _plain("ipu", InnerProductUnit()),
    "energy": _plain("energy", Energy()),
    "roofline": _roofline,
    "table": _table,
}
