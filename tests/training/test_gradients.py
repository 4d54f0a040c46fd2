"""Gradients are found finite exactly if every one of their numbers is."""

from __future__ import annotations

from math import inf, isfinite, nan

import pytest
import torch
from torch import nn

from fewbits.training.gradients import are_finite

HUGE = 3e38


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "hidden",
    [(), (nan,), (inf,), (-inf,), (inf, -inf), (inf, nan), (HUGE, HUGE, HUGE), (HUGE, -HUGE, HUGE), (-HUGE, -HUGE)],
)
def test_it_is_what_every_single_number_says(dtype: torch.dtype, hidden: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(size, dtype=dtype)) for size in ((40, 50), (7,), ())]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape).to(dtype)
    gradient = parameters[0].grad
    assert gradient is not None
    for place, value in enumerate(hidden):
        # The largest number of the type, where it does not hold what is hidden.
        limit = torch.finfo(dtype).max
        gradient[3 * place, 7] = max(min(value, limit), -limit) if isfinite(value) else value
    wanted = all(bool(torch.isfinite(x.grad).all()) for x in parameters if x.grad is not None)
    assert are_finite(parameters) is wanted


def test_nothing_is_finite() -> None:
    assert are_finite([])
