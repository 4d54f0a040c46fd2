"""Two lines: a model that computes low, and the step that trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import distributed, nn
from torch.optim import Optimizer

from fewbits.training import recipes
from fewbits.training.lowering import lower
from fewbits.training.step import Step
from fewbits.training.table import Recipe

M = TypeVar("M", bound=nn.Module)


def prepare(
    model: M,
    optimizer: Optimizer | Sequence[Optimizer],
    recipe: str | Recipe = "amp_bf16",
    *,
    clip_norm: float = 0.0,
    seed: int = 0,
    planned: int = 0,
    curvature: Mapping[str, float] | None = None,
    on_missing: str = "emulate",
) -> tuple[M, Step]:
    """A model that shares the parameters of `model` and computes by `recipe`, and the step that trains it.

    ::

        model, step = training.prepare(model, optimizer, recipe="fp8_hybrid_current")
        for x, y in data:
            status = step(loss_function(model(x), y))

    Args:
        model: any module; it is not changed, and computes as before, with the weights as they are trained.
        optimizer: one or several, of the parameters of `model`, without closure.
        recipe: a name (`fewbits.training.names`), a text, or a `Recipe`.
        clip_norm: the largest norm of all gradients together; 0 for any.
        seed: of the random numbers of stochastic rounding.
        planned: how many steps there will be, for recipes whose formats change with time.
        curvature: layer → curvature as a share of the largest (`fewbits.training.curvatures`), for MoQ.
        on_missing: ``emulate``, or ``error`` where the device has no such products.

    Raises:
        RecipeError: there is no such recipe, it needs something that was not given, or the optimizer wants a closure.
        ModelError: nothing to train, parameters on several devices, or an optimizer of other parameters.
        TargetError: the device cannot run the recipe, and `on_missing` is ``error``.
    """
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    known = recipes.recipe(recipe)
    low = lower(model, known, seed=seed, rank=rank, planned=planned, curvature=curvature, on_missing=on_missing)
    return low, Step(low, optimizer, clip_norm=clip_norm)
