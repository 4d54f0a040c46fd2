"""Where casts stand: a region is cut no more than its numbers need, and what must not be rounded is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fewbits.formats.scheme import BF16, FP16, Scheme
from fewbits.grouping import group
from fewbits.models.pytorch.casting import borders
from fewbits.models.pytorch.model import TorchModel
from torch_nets import plan_of

LENGTH = 64
WIDTH = 16


class Norm(nn.Module):
    """RMSNorm as language models write it: in float32, whatever the type of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float32)
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * scaled.to(x.dtype)


class Decoder(nn.Module):
    """Rotary positions, a causal mask of the least float, softmax in float32: a block of a language model."""

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        self.table = nn.Embedding(32, WIDTH)
        self.norm = Norm()
        self.queries, self.keys, self.values = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.last = nn.Linear(WIDTH, WIDTH, bias=False)
        frequencies = base ** (-torch.arange(0, WIDTH, 2) / WIDTH)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def turned(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        angles = (self.frequencies[None, :, None] @ positions[:, None, :].float()).transpose(1, 2)
        both = torch.cat([angles, angles], -1)
        half = torch.cat([-x[..., WIDTH // 2 :], x[..., : WIDTH // 2]], -1)
        return x * both.cos().to(x.dtype) + half * both.sin().to(x.dtype)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = self.table(x)
        y = self.norm(x)
        scores = self.turned(self.queries(y), positions) @ self.turned(self.keys(y), positions).transpose(-1, -2)
        mask = torch.full((y.shape[1], y.shape[1]), torch.finfo(y.dtype).min).triu(1)
        weights = functional.softmax(scores * WIDTH**-0.5 + mask, dim=-1, dtype=torch.float32).to(y.dtype)
        return x + self.last(weights @ self.values(y))


def arguments(start: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    positions = torch.arange(start, start + LENGTH).expand(3, -1).contiguous()
    return {"x": torch.randint(0, 32, (3, LENGTH)), "positions": positions}


def error(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("scheme", [BF16, FP16])
def test_distant_positions_lose_no_more_than_near_ones(scheme: Scheme) -> None:
    """bf16 holds no odd integer above 256, so that rounded angles are off by whole turns far out."""
    torch.manual_seed(0)
    module = Decoder().eval()
    model = TorchModel.of(module, arguments())
    converted = model.module(plan_of(model, scheme))
    for start in (0, 3000):
        given = arguments(start)
        assert error(module(**given), converted(**given)) < 0.01


def test_no_scheme_is_offered_for_what_comes_from_positions_alone() -> None:
    model = TorchModel.of(Decoder().eval(), arguments())
    kinds = [made.name for made in group(model.graph)]
    assert "table" in kinds and "matmul_4" not in kinds
    assert len([name for name in kinds if "matmul" in name]) == 2  # of four: the scores, and the values


def test_a_norm_in_float32_costs_one_cast_out_and_one_in() -> None:
    module = nn.Sequential(nn.Linear(WIDTH, WIDTH), Norm(), nn.Linear(WIDTH, WIDTH), Norm(), nn.Linear(WIDTH, WIDTH))
    model = TorchModel.of(module, {"input": torch.randn(3, WIDTH)})
    found = [node.kwargs["dtype"] for node in borders(model.module(plan_of(model, BF16)).graph)]
    assert found == [torch.bfloat16, *[torch.float32, torch.bfloat16] * 2, torch.float32]


def test_a_softmax_that_asks_for_float32_does_not_cut_a_region() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(functional.softmax(self.first(x), -1, dtype=torch.float32).to(x.dtype))

    module, x = Scores(), torch.randn(3, WIDTH)
    model = TorchModel.of(module, {"x": x})
    converted = model.module(plan_of(model, BF16))
    assert [node.kwargs["dtype"] for node in borders(converted.graph)] == [torch.bfloat16, torch.float32]
    assert error(module(x), converted(x)) < 0.02


@pytest.mark.parametrize("scheme", [BF16, FP16])
def test_numbers_that_stand_for_infinity_fit_the_type(scheme: Scheme) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = self.first(x).masked_fill(x > 1, torch.finfo(torch.float32).min)
            return functional.softmax(scores.masked_fill(x < -1, -torch.inf), -1)

    module, x = Masked(), torch.randn(3, WIDTH)
    model = TorchModel.of(module, {"x": x})
    found = model.module(plan_of(model, scheme))(x)
    assert torch.isfinite(found).all() and error(module(x), found) < 0.02
