"""A table of costs, measured or simulated by others: one figure for each layer and pair of widths."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewbits.costs.model import LayerSpec, Width, bits_of, refuse
from fewbits.errors import UsageError

_COLUMNS = ("layer", "w", "a", "cost")
_MOST_BITS = 64


@dataclass(frozen=True, eq=False, slots=True)
class LookupTable:
    """Costs as `costs[layer, w - 1, a - 1]` (HAQ, Wang et al., CVPR 2019), NaN where there is none; row i is the
    layer called ``layers[i]``. Raises UsageError if that is not so, or if a cost is infinite or negative.
    """

    layers: tuple[str, ...]
    costs: NDArray[np.float64]
    unit: str = "cycles"
    additive: bool = True

    def __post_init__(self) -> None:
        expected = "one table [layer, w - 1, a - 1], a row for each layer"
        if self.costs.ndim != 3 or 0 in self.costs.shape:
            raise UsageError(f"a table of costs of shape {self.costs.shape}; it is {expected}")
        if len(self.layers) != self.costs.shape[0]:
            raise UsageError(
                f"a table of costs with {self.costs.shape[0]} rows for {len(self.layers)} layers; it is {expected}"
            )
        if len(set(self.layers)) != len(self.layers):
            raise UsageError("a table of costs names a layer twice; give one row for each layer")
        if np.isinf(self.costs).any() or (self.costs < 0).any():
            raise UsageError("a table of costs holds infinite or negative ones; leave out (NaN) what cannot run")

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Whether every layer has a cost for these widths."""
        found = self._column(w, a)
        return found.size > 0 and not bool(np.isnan(found).any())

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """The table's figure; see `CostModel.cost`. Raises UsageError also for a layer that has no row."""
        if layer.name not in self.layers:
            known = ", ".join(self.layers[:5]) + (", ..." if len(self.layers) > 5 else "")
            raise UsageError(f"the table of costs has no layer {layer.name!r}; it has {known}")
        found = self._column(w, a)
        if not found.size or np.isnan(found[self.layers.index(layer.name)]):
            most = f"1 to {self.costs.shape[1]} and 1 to {self.costs.shape[2]} bits, where the table has a figure"
            raise refuse("the table of costs", layer, w, a, most)
        return float(found[self.layers.index(layer.name)])

    def _column(self, w: Width, a: Width) -> NDArray[np.float64]:
        """One cost per layer; empty where the table ends before these widths."""
        _, most_w, most_a = self.costs.shape
        if bits_of(w) > most_w or bits_of(a) > most_a:
            return np.empty(0)
        return self.costs[:, bits_of(w) - 1, bits_of(a) - 1]


def load(path: Path, unit: str = "cycles") -> LookupTable:
    """The table in a ``.csv`` file, or in a ``.npy`` file beside which a ``.txt`` file of the same name has the names
    of its rows, one a line.

    Raises UsageError, which says where, if there is none.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return load_csv(path, unit)
    if suffix != ".npy":
        raise UsageError(f"{path} is neither .csv nor .npy; a table of costs is one of these")
    return load_npy(path, _names(path), unit)


def _names(path: Path) -> list[str]:
    names = path.with_suffix(".txt")
    try:
        lines = names.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {names}: {error}. It has to name the rows of {path.name}, one layer a line, as fewbits "
            "inspect prints them; or give a .csv, which has the names in it"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def load_npy(path: Path, layers: Sequence[str], unit: str = "cycles") -> LookupTable:
    """The table in a ``.npy`` file of shape [layer, w - 1, a - 1], whose rows are `layers` in their order.

    Raises UsageError if there is none, or if its shape does not fit.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"cannot read a table of costs from {path}: {error}") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
        raise UsageError(f"{path} holds no array of numbers; a table of costs is one, [layer, w - 1, a - 1]")
    return LookupTable(tuple(layers), found.astype(np.float64), unit)


def load_csv(path: Path, unit: str = "cycles") -> LookupTable:
    """The table in a CSV file with the columns layer, w, a (bits) and cost, in any order of rows.

    Raises UsageError, with the line, if it is none.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read a table of costs from {path}: {error}") from error
    header = tuple(name.strip().lower() for name in lines[0]) if lines else ()
    if header != _COLUMNS:
        raise UsageError(
            f"{path} begins with {','.join(header)!r}; a table of costs begins with {','.join(_COLUMNS)!r}"
        )
    cells: dict[tuple[str, int, int], float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if line:
            name, w, a, cost = _cell(line, f"{path}, line {number}")
            if (name, w, a) in cells:
                raise UsageError(f"{path}, line {number}: {name} with {w} and {a} bits stands there twice; keep one")
            cells[name, w, a] = cost
    layers = tuple(dict.fromkeys(name for name, _, _ in cells))
    most_w, most_a = max((w for _, w, _ in cells), default=0), max((a for _, _, a in cells), default=0)
    costs = np.full((len(layers), most_w, most_a), np.nan)
    for (name, w, a), cost in cells.items():
        costs[layers.index(name), w - 1, a - 1] = cost
    return LookupTable(layers, costs, unit)


def _cell(line: Sequence[str], where: str) -> tuple[str, int, int, float]:
    try:
        name, w, a, cost = (part.strip() for part in line)
        found = name, int(w), int(a), float(cost)
    except ValueError as error:
        raise UsageError(f"{where}: {','.join(line)!r}; expected a layer, two numbers of bits and a cost") from error
    if not (1 <= found[1] <= _MOST_BITS and 1 <= found[2] <= _MOST_BITS):
        raise UsageError(f"{where}: widths are 1 to {_MOST_BITS} bits, not {w} and {a}")
    return found
