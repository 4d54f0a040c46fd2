"""The weights as the optimizer sees them, and how they are kept from step to step.

Parameters of 16 bits get float32 masters that the optimizer updates in their place; other parameters are their own
masters. What a recipe says of masters and optimizer state is done in place after the update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from fewbits.formats.scaled import ScaledFormat
from fewbits.training.cast import Cast
from fewbits.training.cell import Cell
from fewbits.training.gradients import local
from fewbits.training.table import Place, Recipe

_SHORT = (torch.float16, torch.bfloat16)
_MATRIX = 2


@dataclass(slots=True, eq=False)
class Masters:
    """Masters of the parameters `names` (parameter → name); `weights` are those that stand in low products.

    `wide` holds the float32 masters of 16-bit parameters, `residuals` what Kahan's way keeps of roundings.
    """

    recipe: Recipe
    names: Mapping[torch.Tensor, str]
    weights: frozenset[str]
    seed: int
    clock: torch.Tensor
    wide: dict[str, torch.Tensor] = field(default_factory=dict)
    residuals: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for parameter, name in self.names.items():
            if parameter.dtype in _SHORT and parameter.requires_grad:
                self.wide[name] = parameter.detach().float()

    @contextmanager
    def updating(self, scale: float) -> Iterator[None]:
        """Meanwhile 16-bit parameters are their float32 masters, with gradients without the loss scale."""
        short: list[tuple[torch.Tensor, torch.Tensor]] = []
        for parameter, name in self.names.items():
            if name in self.wide and parameter.grad is not None:
                gradient = parameter.grad.float() / scale
                short.append((parameter, parameter.data))
                parameter.grad = None
                parameter.data = self._wide(parameter, name)
                parameter.grad = gradient
        try:
            yield
        finally:
            for parameter, data in short:
                parameter.grad = None
                wide = parameter.data
                self.wide[self.names[parameter]] = wide
                parameter.data = data.copy_(wide)

    def short(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those of `parameters` that have a float32 master."""
        return [parameter for parameter in parameters if self.names[parameter] in self.wide]

    def keep(self, parameters: Sequence[nn.Parameter], optimizers: Iterable[Optimizer]) -> None:
        """Round what was just updated as the recipe keeps it. To be called while `updating`."""
        master, state = self.recipe.cell(Place.MASTER), self.recipe.cell(Place.STATE)
        with torch.no_grad():
            for parameter in parameters:
                name = self.names[parameter]
                whole = local(parameter)
                if self.recipe.clip and name in self.weights:
                    whole.clamp_(-self.recipe.clip, self.recipe.clip)
                if _applies(master, whole, name in self.weights):
                    self._round(whole, master, name)
            if not state.is_identity:
                for optimizer in optimizers:
                    for updated, values in optimizer.state.items():
                        _round_state(values, state, self.names[updated], self)

    def cast(self, cell: Cell, tensor: str) -> Cast:
        """How `tensor` is cast."""
        return Cast(cell, tensor, self.seed, self.clock)

    def _wide(self, parameter: torch.Tensor, name: str) -> torch.Tensor:
        """The master of `parameter`; made anew where somebody else changed the parameter."""
        wide, now = self.wide[name], parameter.data
        return wide if torch.equal(wide.to(now.dtype), now) else now.float()

    def _round(self, whole: torch.Tensor, cell: Cell, name: str) -> None:
        cast = self.cast(cell, f"{name} {Place.MASTER}")
        summed = 1 if whole.ndim >= _MATRIX else -1
        if not cell.kahan:
            whole.copy_(cast(whole.float(), summed))
            return
        wanted = whole.float()
        if name in self.residuals:
            wanted = wanted + self.residuals[name].to(wanted.device)
        kept = cast(wanted, summed)
        self.residuals[name] = cast(wanted - kept, summed)
        whole.copy_(kept)


def _applies(cell: Cell, weight: torch.Tensor, low: bool) -> bool:
    """Formats with scales are for the weights of low products, plain ones for all parameters."""
    return not cell.is_identity and (not isinstance(cell.format, ScaledFormat) or (low and weight.ndim >= _MATRIX))


def _round_state(values: Mapping[str, object], cell: Cell, name: str, masters: Masters) -> None:
    for key, value in values.items():
        # Counters of steps are numbers, not state of a weight.
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim and key != "step":
            whole = local(value)
            if not isinstance(cell.format, ScaledFormat) or whole.ndim >= _MATRIX:
                whole.copy_(masters.cast(cell, f"{name} {Place.STATE} {key}")(whole.float(), min(1, whole.ndim - 1)))
