"""The arguments that somebody else's code calls a module with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from fewbits.errors import MetricError
from fewbits.models.pytorch.call_form import bound
from fewbits.models.pytorch.exporting import parameters_of
from fewbits.models.pytorch.given import in_evaluation

_KEPT = 64


def recorded(module: nn.Module, function: Callable[[object], object]) -> tuple[Mapping[str, object], ...]:
    """The arguments of the first calls that `function` makes of `module` in evaluation mode. `module` itself is not
    touched: a copy that shares its weights is called. Raises MetricError if it is never called."""
    twin = in_evaluation(module)
    parameters = parameters_of(module)
    seen: list[dict[str, object]] = []

    def note(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if len(seen) < _KEPT:
            seen.append(bound(parameters, args, kwargs))

    handle = twin.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        function(twin)
    handle.remove()
    if not seen:
        raise MetricError("eval_func never calls the model that it is given; call it on your data and return a score")
    return tuple(seen)
