"""How curved the loss is in the weights of each layer: what MoQ's periods grow with.

Source: DeepSpeed, Mixture-of-Quantization: the largest eigenvalue of each layer's block of the Hessian, by power
iteration (at most 100 rounds, to 1 %), as a share of the largest of all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from fewbits.errors import DataError

_TINY = 1e-12


def curvatures(
    model: nn.Module, loss: Callable[[], torch.Tensor], *, rounds: int = 100, tolerance: float = 1e-2, seed: int = 0
) -> Mapping[str, float]:
    """Layer (a module with a weight of two axes or more) → its curvature as a share of the largest, 0 to 1.

    `loss` computes the loss of the same samples at every call, by `model` as it is, in float. Raises DataError if the
    loss has no second derivatives.
    """
    weights = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.weight.requires_grad
    }
    if not weights:
        return {}
    value = loss()
    gradients = torch.autograd.grad(value, list(weights.values()), create_graph=True, allow_unused=True)
    random = torch.Generator().manual_seed(seed)
    found = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if gradient is None:
            found[name] = 0.0
        elif not gradient.requires_grad:
            raise DataError("the loss has no second derivatives: compute it by the float model, not by the lowered one")
        else:
            found[name] = _largest(gradient, weight, rounds, tolerance, random)
    top = max(found.values())
    return {name: eigenvalue / top if top > _TINY else 0.0 for name, eigenvalue in found.items()}


def _largest(
    gradient: torch.Tensor, weight: torch.Tensor, rounds: int, tolerance: float, random: torch.Generator
) -> float:
    """Magnitude of the eigenvalue of largest magnitude of the Hessian in `weight`."""
    vector = torch.randn(weight.shape, generator=random).to(weight)
    vector = vector / vector.norm()
    before = 0.0
    for _ in range(rounds):
        (image,) = torch.autograd.grad(gradient, weight, vector, retain_graph=True)
        now = float((vector * image).sum())
        norm = image.norm()
        if norm < _TINY:
            return 0.0
        vector = image / norm
        if abs(now - before) <= tolerance * abs(now):
            return abs(now)
        before = now
    return abs(before)
