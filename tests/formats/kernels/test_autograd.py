"""Straight-through gradients: the identity's, and none where a value was clipped."""

from __future__ import annotations

import pytest
import torch

from fewbits.formats.kernels.autograd import fake_quantize_ste
from fewbits.formats.quantize import fake_quantize


def gradient(x: torch.Tensor, format: str, **options: object) -> torch.Tensor:
    """Of a weighted sum, so that every element has a gradient of its own."""
    x = x.detach().clone().requires_grad_()
    weights = torch.arange(1, x.numel() + 1, dtype=x.dtype).reshape(x.shape)
    (fake_quantize_ste(x, format, **options) * weights).sum().backward()  # type: ignore[arg-type]
    assert x.grad is not None
    return x.grad / weights


@pytest.mark.parametrize(
    "text", ["fp8_e4m3", "int8r/channel", "uint8/tensor", "mxfp4", "nvfp4", "ternary/channel", "nf4/g16"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_forward_is_fake_quantize(text: str, dtype: torch.dtype) -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    found = fake_quantize_ste(x, text)
    assert found.dtype == dtype and found.requires_grad
    assert torch.equal(found.detach(), fake_quantize(x.detach(), text))


def test_gradient_is_that_of_clamp_up_to_half_a_step() -> None:
    """int8 with scale 0.1 holds -12.8 to 12.7; what rounds to the ends is not clipped."""
    x = torch.tensor([-20.0, -12.86, -12.84, -12.8, 0.03, 12.7, 12.74, 12.76, torch.inf, -torch.inf])
    expected = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 0, 0, 0])
    assert torch.equal(gradient(x, "int8", scale=0.1), expected)
    assert torch.equal(gradient(x, "int8", scale=0.1, clipped=False), torch.ones(10))
    inner = x[(expected == 1) | (x.abs() > 13)]
    clamped = inner.clone().requires_grad_()
    clamped.clamp(-12.85, 12.75).sum().backward()
    assert clamped.grad is not None and torch.equal(gradient(inner, "int8", scale=0.1), clamped.grad)


def test_floats_clip_beyond_their_largest_number_and_half_a_step() -> None:
    x = torch.tensor([1.0, 448.0, 463.0, 465.0, -465.0, 1e9, torch.inf])
    assert torch.equal(gradient(x, "fp8_e4m3"), torch.tensor([1.0, 1, 1, 0, 0, 0, 0]))
    assert torch.equal(gradient(x / 448, "fp8_e4m3", scale=1 / 448), torch.tensor([1.0, 1, 1, 0, 0, 0, 0]))


def test_zero_points_shift_what_is_clipped() -> None:
    x = torch.tensor([-0.4, -0.6, 0.0, 200.0, 255.4, 255.6])
    assert torch.equal(gradient(x, "uint8/tensor", scale=1.0), torch.tensor([1.0, 0, 1, 1, 1, 0]))
    assert torch.equal(gradient(x, "uint8/tensor", scale=1.0, zero_point=55), torch.tensor([1.0, 1, 1, 1, 0, 0]))


def test_own_scales_clip_in_blocks_whose_power_of_two_is_rounded_down() -> None:
    """FLOOR scales a block with largest magnitude 7.5 by 1, though mxfp4 ends at 6; half a step beyond that is 7."""
    block = torch.zeros(2, 32)
    block[0, :4] = torch.tensor([7.5, -7.5, 6.9, 1.0])
    block[1, :4] = torch.tensor([6.0, -6.0, 3.0, 1.0])
    expected = torch.ones(2, 32)
    expected[0, :2] = 0
    assert torch.equal(gradient(block, "mxfp4"), expected)
    assert torch.equal(gradient(block, "mxfp4-rceil"), torch.ones(2, 32))


@pytest.mark.parametrize(
    "text", ["int8r/channel", "uint8/g16", "fp8_e4m3/tensor", "int4/tile3x5", "ternary/tensor", "binary/tensor"]
)
def test_own_real_scales_clip_nothing(text: str) -> None:
    x = torch.randn(7, 33, generator=torch.Generator().manual_seed(1))
    assert torch.equal(gradient(x, text), torch.ones_like(x))


def test_infinite_gradients_do_not_pass_where_clipped() -> None:
    x = torch.tensor([1.0, 1e9]).requires_grad_()
    fake_quantize_ste(x, "fp8_e4m3").backward(torch.tensor([torch.inf, torch.inf]))
    assert x.grad is not None and x.grad.tolist() == [torch.inf, 0.0]


def test_one_bool_per_element_is_kept_and_only_if_something_may_be_clipped() -> None:
    x = torch.randn(64, 64).requires_grad_()
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fake_quantize_ste(x, "fp8_e4m3")
        assert [(tensor.dtype, tensor.shape) for tensor in kept] == [(torch.bool, x.shape)]
        fake_quantize_ste(x, "fp8_e4m3", clipped=False)
        fake_quantize_ste(x, "int8r/channel")
    assert len(kept) == 1


def test_without_gradient_there_is_no_history() -> None:
    x = torch.randn(4, 4)
    assert not fake_quantize_ste(x, "bf16").requires_grad
    with torch.no_grad():
        assert not fake_quantize_ste(x.requires_grad_(), "bf16").requires_grad


def test_a_linear_layer_learns_through_it() -> None:
    """Straight-through training of an int4 weight reaches a target that lies on the grid."""
    target = torch.tensor([[3.0, -5.0, 7.0]])
    weight = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(2))
    for _ in range(60):
        loss = ((inputs @ (fake_quantize_ste(weight, "int4", scale=1.0) - target).T) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(fake_quantize(weight.detach(), "int4", scale=1.0), target)
