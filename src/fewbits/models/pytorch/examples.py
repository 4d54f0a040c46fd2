"""Arguments to export a module with, from the first batches of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from fewbits.data.checks import LABELS, label_hint
from fewbits.errors import DataError
from fewbits.models.pytorch.call_form import Arguments
from fewbits.models.pytorch.exporting import Dynamic, parameters_of, required_parameters

_SAMPLES = 3
"""An axis of size 1 would be fixed, one of 2 may be taken for another axis of the same size."""


def example_of(module: nn.Module, items: Sequence[object]) -> tuple[Arguments, Dynamic]:
    """Arguments like the first of `items`, with a few samples, and the axes whose size is free: that of the samples,
    and those that differ between `items`. They are on the device of the module, and floats are of its type.

    An item is a mapping from the names of arguments to values, a tuple of the first arguments, or the first argument.
    Raises DataError if items and module do not go together.
    """
    if not items:
        raise DataError("there is no batch to export the model with; give data, or example_inputs")
    named = [_named(module, item) for item in items]
    shapes = [{name: tuple(value.shape) for name, value in item.items()} for item in named]
    dynamic: dict[str, frozenset[int]] = {}
    for name, first in shapes[0].items():
        others = [item[name] for item in shapes if len(item.get(name, ())) == len(first)]
        dynamic[name] = frozenset({0, *(axis for axis in range(len(first)) if len({one[axis] for one in others}) > 1)})
    held = (*module.parameters(), *module.buffers())
    device = next((tensor.device for tensor in held), torch.device("cpu"))
    floats = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    dtype = next(iter(floats)) if len(floats) == 1 else torch.float32
    return {
        name: _few(value).to(device, dtype if value.is_floating_point() else None) for name, value in named[0].items()
    }, dynamic


def _named(module: nn.Module, item: object) -> Mapping[str, torch.Tensor]:
    parameters = parameters_of(module)
    if not isinstance(item, Mapping):
        needed = required_parameters(module)
        values = item if isinstance(item, tuple) else (item,)
        if not len(needed) <= len(values) <= len(parameters):
            raise DataError(
                f"{type(module).__name__} needs {', '.join(needed) or 'nothing'}, but a batch has "
                f"{len(values)} {'array' if len(values) == 1 else 'arrays'} without a name; give batches as mappings "
                "from name to array"
            )
        item = dict(zip(parameters, values, strict=False))
    unknown = sorted(str(name) for name in item if name not in parameters)
    if unknown:
        hint = label_hint(unknown[0])
        raise DataError(
            f"{type(module).__name__}.forward has no argument {unknown[0]!r}{hint}; it takes {', '.join(parameters)} "
            f"(labels, if there are any, are named {LABELS!r})"
        )
    return {str(name): _tensor(str(name), value) for name, value in item.items() if value is not None}


def _tensor(name: str, value: object) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        found = value.detach()
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise DataError(f"the argument {name!r} is {type(value).__name__}; give an array of numbers")
        # Made contiguous, a single value would get an axis.
        found = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    if found.ndim == 0:
        raise DataError(
            f"the argument {name!r} is a single value, so it has no axis for samples; what is the same for all samples "
            "belongs into the module (a default of forward, or a wrapper)"
        )
    if not found.numel():
        raise DataError(f"the argument {name!r} has shape {tuple(found.shape)}: there is nothing in it")
    return found


def _few(value: torch.Tensor) -> torch.Tensor:
    """A few samples of `value`; the last repeated where there are not enough."""
    places = [min(place, value.shape[0] - 1) for place in range(_SAMPLES)]
    return value[places].contiguous()
