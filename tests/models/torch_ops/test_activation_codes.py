"""Codes that torch's own operations make are those of `fewbits.formats`."""

from __future__ import annotations

import pytest
import torch

from fewbits.formats.granularity import Tensor, Token
from fewbits.formats.integer import INT8, INT8R, UINT8, IntFormat
from fewbits.formats.quantize import quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.models.torch_ops.activation_codes import Ends, dynamic_scale, encode

ARRAYS = {
    "normal": lambda: torch.randn(50, 33),
    "bf16": lambda: torch.randn(50, 33).bfloat16(),
    "positive": lambda: torch.rand(20, 7) + 1,
    "negative": lambda: -torch.rand(20, 7) - 1,
    "spread": lambda: torch.randn(40, 9) * 10.0 ** torch.randint(-12, 12, (40, 1)),
    "zeros": lambda: torch.zeros(3, 4),
    "some zeros": lambda: torch.randn(6, 5) * torch.tensor([0.0, 1.0]).repeat(3).reshape(6, 1),
    "smallest": lambda: torch.randn(8, 4) * 1e-41,
    "halves": lambda: torch.arange(-8.0, 8.0).reshape(4, 4) / 2,
    "far apart": lambda: torch.tensor([[-1e30, 1.0], [3e-30, 5e20]]),
    "one number": lambda: torch.full((2, 3), 0.3),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("element", [UINT8, INT8R, INT8, IntFormat(4, signed=False)], ids=str)
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("name", ARRAYS)
def test_ranges_found_at_every_call(name: str, per_row: bool, element: IntFormat, seed: int) -> None:
    torch.manual_seed(seed)
    x = ARRAYS[name]()
    wanted = quantize(x, ScaledFormat(element, Token() if per_row else Tensor()))
    scale, zero = dynamic_scale(x, Ends.of(element), per_row=per_row)
    assert torch.equal(scale.reshape(-1), wanted.scale.reshape(-1))
    assert torch.equal(zero.reshape(-1), wanted.zero_point.float().reshape(-1))
    codes = encode(x, scale, zero, Ends.of(element), torch.int16)
    assert torch.equal(codes, wanted.codes.to(torch.int16))


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
@pytest.mark.parametrize("per_row", [False, True])
def test_nothing_has_scale_one(shape: tuple[int, ...], per_row: bool) -> None:
    scale, zero = dynamic_scale(torch.zeros(shape), Ends(0, 255), per_row=per_row)
    assert scale.shape == zero.shape == ((*shape[:-1], 1) if per_row else ())
    assert bool((scale == 1).all()) and not zero.any()


def test_moved_codes_are_those_of_the_other_sign() -> None:
    x = torch.randn(100)
    ends = Ends.of(INT8R)
    scale, zero = dynamic_scale(x, ends, per_row=False)
    signed = encode(x, scale, zero, ends, torch.int8).int()
    assert torch.equal(encode(x, scale, zero + 128, ends.moved(128), torch.uint8).int() - 128, signed)
