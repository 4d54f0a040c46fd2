"""How often a layer-wise scaler looks matters exactly where scales are not at their bounds."""

from __future__ import annotations

import torch
from torch.nn import functional

from fewbits import training
from training_tasks import Deep, digits, seeded

FP16 = (
    "recipe: all_fp16; weight forward: fp16; activation forward: fp16; error backward: fp16 nonsaturate; "
    "error output: fp16 nonsaturate; gradient: fp16 nonsaturate; scaler: layer_adaptive period={}"
)


def run(period: int, loss_factor: float, steps: int = 12) -> tuple[list[tuple[float, ...]], torch.Tensor]:
    """The layers' scales after each step, and the weights at the end."""
    x, y, _, _ = digits()
    model = seeded(Deep, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.03 / loss_factor, 0.9)
    low, step = training.prepare(model, optimizer, FP16.format(period))
    scales = []
    for index in range(steps):
        rows = slice(64 * index, 64 * (index + 1))
        step(functional.cross_entropy(low(x[rows]), y[rows]) * loss_factor)
        scales.append(tuple(step.layer_scales.values()))
    return scales, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_scales_at_their_bounds_are_the_same_whatever_the_period() -> None:
    """With errors this small the head stands at the bound of a layer (16), the next at its square, others at 1024."""
    often, weights = run(1, 2.0**-17)
    seldom, same = run(100, 2.0**-17)
    assert set(often) == set(seldom) == {(16.0, 256.0, *[1024.0] * 7)}
    assert torch.equal(weights, same)


def test_scales_between_their_bounds_follow_the_errors() -> None:
    often, weights = run(1, 2.0**-8)
    seldom, others = run(100, 2.0**-8)
    assert len(set(often)) > 1 and len(set(seldom)) == 1
    assert often[0] == seldom[0]
    assert not torch.equal(weights, others)
