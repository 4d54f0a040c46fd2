"""A recipe: the table of what is cast how in training, its scaler, and which layers stay higher."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum

from fewbits.errors import FormatError, RecipeError
from fewbits.formats.floating import BF16, FP16, FP32, FloatFormat
from fewbits.training.accumulation import FP32_SUMS, Accumulation
from fewbits.training.cell import KEPT, Cell
from fewbits.training.scalers import NO_SCALE, LayerAdaptive, RisingFloor, Scaler, parse_scaler
from fewbits.training.schedule import Boost, Moq, parse_schedule


class Place(StrEnum):
    """A role and a direction: which tensor of a training step a cell is about."""

    WEIGHT_FORWARD = "weight forward"
    """The weight of a product, in the forward pass."""
    WEIGHT_BACKWARD = "weight backward"
    """The weight where the error is taken back through the layer; as forward unless said otherwise."""
    ACTIVATION_FORWARD = "activation forward"
    """The input of a product."""
    ACTIVATION_OUTPUT = "activation output"
    """What a product gives."""
    ACTIVATION_BACKWARD = "activation backward"
    """The input of a product where the gradient of the weight is formed; as forward unless said otherwise."""
    ERROR_BACKWARD = "error backward"
    """The gradient that reaches a product, where it is taken back through the layer."""
    ERROR_WEIGHT = "error weight"
    """The same where the gradient of the weight is formed; as backward unless said otherwise."""
    ERROR_OUTPUT = "error output"
    """The gradient that leaves a product, with respect to its input."""
    GRADIENT = "gradient"
    """The gradient of a weight."""
    MASTER = "master"
    """The weight that the optimizer updates, as it is kept from step to step."""
    STATE = "optimizer state"
    """What the optimizer keeps besides: momenta, second moments."""
    COMMUNICATION = "communication"
    """Gradients on their way between processes."""


INHERITS: Mapping[Place, Place] = {
    Place.WEIGHT_BACKWARD: Place.WEIGHT_FORWARD,
    Place.ACTIVATION_BACKWARD: Place.ACTIVATION_FORWARD,
    Place.ERROR_WEIGHT: Place.ERROR_BACKWARD,
}
"""Places that are cast as another one unless the recipe says otherwise."""


class Reach(StrEnum):
    """What of a model a recipe changes."""

    MODULES = "modules"
    """Linear and convolution layers."""
    PRODUCTS = "products"
    """Those, and the products of two activations, in attention for example."""
    AMP = "amp"
    """Every operation by its name: products low, sums and exponentials in fp32 (`fewbits.training.op_lists`)."""
    PURE = "pure"
    """Every operation low."""


_SETTINGS = ("scaler", "keep", "reach", "rest", "sums", "schedule", "clip")
_KEEPS = ("first", "last")
_RESTS = (FP32, BF16, FP16)
_NAME = re.compile(r"[A-Za-z0-9_.+-]+\Z")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Place → cell, and what goes with it. ``Recipe.parse(str(recipe)) == recipe``.

    `cells` names what is cast; other places stay in fp32. `keep` says which layers stay higher: ``first`` and ``last``
    (of the layers with products, in the order of the modules), and regular expressions for the names of others
    (``name:head``). `clip` holds the masters of lowered layers within ``-clip..clip`` (BinaryConnect); 0 for no limit.
    `rest` is the format of the operations that are not lowered, under the rules of AMP; fp32 leaves them alone.
    `sums` are those of the layers whose names the pattern `audited` finds (``sums: hopper@128 name:PATTERN``), of all
    if there is none. `schedule` changes formats on the way. Raises RecipeError for what cannot be combined.
    """

    name: str
    cells: Mapping[Place, Cell] = field(default_factory=dict)
    scaler: Scaler = NO_SCALE
    keep: tuple[str, ...] = ()
    reach: Reach = Reach.MODULES
    rest: FloatFormat = FP32
    sums: Accumulation = FP32_SUMS
    audited: str = ""
    schedule: Moq | Boost | None = None
    clip: float = 0.0

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise RecipeError(f"the name of a recipe is made of letters, digits and _.+-, not {self.name!r}")
        for rule in self.keep:
            if rule not in _KEEPS and not rule.startswith("name:"):
                raise RecipeError(f"{rule!r} does not say which layers are kept; choose first, last or name:PATTERN")
            _check_pattern(rule)
        if self.reach in (Reach.AMP, Reach.PURE) and Place.WEIGHT_FORWARD not in self.cells:
            raise RecipeError(
                f"the recipe {self.name} reaches every operation ({self.reach}): it needs a cell for weight "
                "forward, which says the low format"
            )
        if self.rest not in _RESTS or (self.rest != FP32 and self.reach in (Reach.AMP, Reach.PURE)):
            raise RecipeError(
                f"the rest is {', '.join(map(str, _RESTS))}, and left out where every operation is reached"
            )
        for place, cell in self.cells.items():
            if cell.kahan and place is not Place.MASTER:
                raise RecipeError(f"kahan is for masters, not for {place}")
        if isinstance(self.scaler, RisingFloor | LayerAdaptive) and not _is_plain_float(
            self.cell(Place.ERROR_BACKWARD)
        ):
            raise RecipeError(
                f"the scaler {self.scaler} goes by the range of the errors' format: it needs a cell for error backward "
                "with a float format without scales, for example fp8_e5m2 or fp16"
            )
        _check_pattern(self.audited)
        if self.audited and self.sums == FP32_SUMS:
            raise RecipeError("layers are named for other sums than fp32: for example sums: hopper@128 name:PATTERN")
        if self.clip < 0:
            raise RecipeError(f"clip is a positive number, or 0 for none, not {self.clip}")
        # In one order, so that equal recipes are equal texts.
        ordered = {place: self.cells[place] for place in Place if place in self.cells}
        object.__setattr__(self, "cells", ordered)

    def __hash__(self) -> int:
        return hash(str(self))

    def cell(self, place: Place) -> Cell:
        """How the tensor at `place` is cast."""
        found = self.cells.get(place)
        if found is None:
            return self.cell(INHERITS[place]) if place in INHERITS else KEPT
        return found

    def sums_of(self, name: str) -> Accumulation:
        """How the products of the layer `name` are summed."""
        return self.sums if re.search(self.audited, name) else FP32_SUMS

    def with_cells(self, cells: Mapping[Place, Cell]) -> Recipe:
        """The same recipe with other `cells` at some places."""
        return replace(self, cells={**self.cells, **cells})

    def __str__(self) -> str:
        lines = [f"recipe: {self.name}", *(f"{place}: {cell}" for place, cell in self.cells.items())]
        if self.scaler != NO_SCALE:
            lines.append(f"scaler: {self.scaler}")
        if self.keep:
            lines.append(f"keep: {' '.join(self.keep)}")
        if self.reach is not Reach.MODULES:
            lines.append(f"reach: {self.reach}")
        if self.rest != FP32:
            lines.append(f"rest: {self.rest}")
        if self.sums != FP32_SUMS:
            lines.append(f"sums: {self.sums}" + (f" name:{self.audited}" if self.audited else ""))
        if self.schedule is not None:
            lines.append(f"schedule: {self.schedule}")
        if self.clip:
            lines.append(f"clip: {self.clip!r}")
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read `text`, the inverse of ``str``: one setting per line, or parted by ``;``. Raises RecipeError."""
        settings: dict[str, str] = {}
        for line in re.split(r"[\n;]", text):
            key, colon, value = (part.strip() for part in line.partition(":"))
            if not key and not colon:
                continue
            if not colon or not value or key in settings:
                raise RecipeError(
                    f"{line.strip()!r} is not a line of a recipe, or says something twice; write for example "
                    "'weight forward: fp8_e4m3/tensor'"
                )
            settings[key] = value
        if "recipe" not in settings:
            raise RecipeError("a recipe begins with its name: 'recipe: my_recipe'")
        places = {str(place): place for place in Place}
        known = [*places, *_SETTINGS]
        for key in settings:
            if key != "recipe" and key not in known:
                near = get_close_matches(key, known, 3, 0.4)
                raise RecipeError(f"a recipe says nothing about {key!r}; did you mean {' or '.join(near or known)}?")
        return cls(
            settings["recipe"],
            {places[key]: Cell.parse(value) for key, value in settings.items() if key in places},
            parse_scaler(settings.get("scaler", "none")),
            tuple(settings["keep"].split()) if "keep" in settings else (),
            _reach(settings.get("reach", str(Reach.MODULES))),
            _float(settings.get("rest", "fp32")),
            *_sums(settings.get("sums", str(FP32_SUMS))),
            parse_schedule(settings["schedule"]) if "schedule" in settings else None,
            _clip(settings.get("clip", "0")),
        )


def differences(a: Recipe, b: Recipe) -> list[str]:
    """What differs between two recipes, a line each: ``weight forward: fp8_e5m2 | fp8_e4m3/tensor``."""
    one, other = _lines(a), _lines(b)
    keys = [*one, *(key for key in other if key not in one)]
    return [f"{key}: {one.get(key, '-')} | {other.get(key, '-')}" for key in keys if one.get(key) != other.get(key)]


def _lines(recipe: Recipe) -> dict[str, str]:
    parts = (line.partition(": ") for line in str(recipe).splitlines())
    return {key: value for key, _, value in parts}


def _is_plain_float(cell: Cell) -> bool:
    return isinstance(cell.format, FloatFormat) and not cell.is_identity


def _reach(text: str) -> Reach:
    if text not in set(Reach):
        raise RecipeError(f"{text!r} does not say what a recipe reaches; choose {', '.join(Reach)}")
    return Reach(text)


def _float(text: str) -> FloatFormat:
    try:
        return FloatFormat.parse(text)
    except FormatError as error:
        raise RecipeError(f"rest: {error}") from error


def _sums(text: str) -> tuple[Accumulation, str]:
    sums, _, rest = text.partition(" ")
    if rest and not rest.startswith("name:"):
        raise RecipeError(f"sums: {text!r}; write for example hopper@128, or hopper@128 name:PATTERN for some layers")
    return Accumulation.parse(sums), rest.removeprefix("name:")


def _clip(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RecipeError(f"clip: {text!r} is not a number") from error


def _check_pattern(rule: str) -> None:
    try:
        re.compile(rule.removeprefix("name:"))
    except re.error as error:
        raise RecipeError(f"keep {rule!r}: not a regular expression ({error})") from error
