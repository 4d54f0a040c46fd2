"""Casts of torch tensors on the CPU: numpy's bits, whatever the type, layout and history of the tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits.errors import DataError, TargetError
from fewbits.formats import kernels
from fewbits.formats.kernels import torch_tensors
from fewbits.formats.numerics import reference
from fewbits.formats.quantize import dequantize, fake_quantize, quantize
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.text import parse

FORMATS = [
    "fp8_e4m3",
    "bf16",
    "int8r/channel",
    "uint8/tensor",
    "mxfp4",
    "nvfp4",
    "nf4/g16",
    "ternary/channel",
    "kmeans2",
]
KEY = NoiseKey(7, step=1)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("text", FORMATS)
def test_values_codes_and_scales_are_those_of_numpy(text: str, dtype: torch.dtype) -> None:
    x = numbers(6, 40).to(dtype)
    found, expected = quantize(x, text), reference.quantize(x.numpy(), parse(text))
    assert np.array_equal(found.codes.numpy(), expected.codes) and found.codes.numpy().dtype == expected.codes.dtype
    for name in ("scale", "zero_point", "tensor_scale", "table"):
        assert np.array_equal(getattr(found, name).numpy(), getattr(expected, name)), name
    assert (found.dtype, found.format) == (expected.dtype, expected.format)
    values = fake_quantize(x, text)
    assert values.dtype == dtype and np.array_equal(values.numpy(), reference.fake_quantize(x.numpy(), parse(text)))
    assert torch.equal(dequantize(found), values)


@pytest.mark.parametrize("text", FORMATS)
def test_bfloat16_is_rounded_as_float32_is_and_then_to_bfloat16(text: str) -> None:
    x = numbers(6, 40).bfloat16()
    expected = reference.fake_quantize(x.float().numpy(), parse(text))
    assert torch.equal(fake_quantize(x, text), torch.from_numpy(expected).bfloat16())
    q = quantize(x, text)
    assert q.dtype == "bfloat16"
    assert torch.equal(dequantize(q), torch.from_numpy(expected).bfloat16())


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_all_bfloat16_numbers_become_the_codes_of_torch(name: str) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    dtype = getattr(torch, name)
    x = every[every.float().abs() <= torch.finfo(dtype).max]
    assert torch.equal(
        quantize(x, name.replace("float8", "fp8").replace("fn", "")).codes, x.to(dtype).view(torch.uint8)
    )


def test_bfloat16_saturates_or_not_as_it_is_told() -> None:
    # 2**-8 beyond bfloat16's largest number: rounding to fp32 keeps it, rounding to bfloat16 makes it Inf.
    x = torch.tensor([torch.finfo(torch.bfloat16).max, -torch.inf], dtype=torch.bfloat16)
    far = 1 + 2.0**-7
    assert torch.equal(fake_quantize(x, "int8", scale=far * 2.0**121), torch.tensor([3.3895e38, -3.3895e38]).bfloat16())
    assert torch.isinf(fake_quantize(x, "fp8_e5m2", overflow="nonsaturate")).all()


@pytest.mark.parametrize("text", ["mxfp8_e4m3", "int8r/channel", "bf16"])
def test_memory_layout_does_not_matter_not_even_for_noise(text: str) -> None:
    x = numbers(32, 64)
    expected = fake_quantize(x, text, rounding="stochastic", key=KEY)
    for same in (x.T.contiguous().T, torch.stack([x, x], 2)[:, :, 1], x.to(memory_format=torch.contiguous_format)):
        assert torch.equal(fake_quantize(same, text, rounding="stochastic", key=KEY), expected)
        assert torch.equal(
            quantize(same, text, rounding="stochastic", key=KEY).codes,
            quantize(x, text, rounding="stochastic", key=KEY).codes,
        )


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 3.3)
    for text in ("fp8_e4m3", "int8r/tensor"):
        assert fake_quantize(x, text).shape == shape
        assert quantize(x, text).shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_out_takes_the_result_and_may_be_the_input(dtype: torch.dtype) -> None:
    x = numbers(8, 64).to(dtype)
    expected = fake_quantize(x, "mxfp8_e4m3")
    out = torch.empty_like(x)
    assert fake_quantize(x, "mxfp8_e4m3", out=out) is out and torch.equal(out, expected)
    assert fake_quantize(x, "mxfp8_e4m3", out=x) is x and torch.equal(x, expected)


def test_out_that_does_not_fit_is_refused() -> None:
    x = numbers(8, 64)
    for out in (x.double(), x[1:], x.T, torch.empty(64, 8).T):
        with pytest.raises(DataError, match="out is a contiguous tensor"):
            fake_quantize(x, "bf16", out=out)
    both = torch.zeros(9, 64)
    with pytest.raises(DataError, match="overlaps"):
        fake_quantize(both[:8], "bf16", out=both[1:])


def test_the_input_is_left_alone_and_the_result_has_no_history() -> None:
    x = numbers(4, 32).requires_grad_()
    before = x.detach().clone()
    with torch.no_grad():
        assert not fake_quantize(x, "mxfp4").requires_grad
    assert not quantize(x, "mxfp4").scale.requires_grad
    assert torch.equal(x.detach(), before)


def test_a_gradient_is_not_lost_in_silence() -> None:
    with pytest.raises(DataError, match="fake_quantize_ste"):
        fake_quantize(numbers(4, 32).requires_grad_(), "mxfp4")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_given_scales_may_be_numbers_or_tensors(dtype: torch.dtype) -> None:
    x = numbers(4, 32).to(dtype)
    wide = x.float().numpy()
    scale = torch.tensor([[0.5], [0.25], [1.0], [0.125]], dtype=dtype)
    found = quantize(x, "int8/channel", scale=scale)
    assert torch.equal(found.scale, scale.float())
    assert np.array_equal(found.codes.numpy(), np.clip(np.rint(wide / scale.float().numpy()), -128, 127))
    assert torch.equal(fake_quantize(x, "fp8_e4m3", scale=0.5), (fake_quantize(x * 2, "fp8_e4m3") / 2))


def test_nan_without_code_is_counted_and_placed() -> None:
    x = torch.zeros(4, 64)
    x[2, 5] = x[3, 1] = torch.nan
    with pytest.raises(DataError, match=r"2 of 256 .*\[2, 5\]"):
        quantize(x, "int8r/channel")
    assert torch.isnan(fake_quantize(x, "int8r/channel")).sum() == 2


@pytest.mark.parametrize(
    "x", [torch.ones(2, dtype=torch.int32), torch.ones(2, dtype=torch.complex64), torch.ones(2) > 0]
)
def test_what_is_no_real_number_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(DataError, match="tensors that are cast are of"):
        quantize(x, "fp8_e4m3")


def test_tensors_without_memory_of_their_own_are_refused() -> None:
    for x in (torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")):
        with pytest.raises(DataError, match="dense and on cpu or cuda"):
            fake_quantize(x, "fp8_e4m3")


def test_without_triton_a_cuda_tensor_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="pip install triton"):
        kernels.cuda_kernels()


@pytest.mark.parametrize("text", ["int8/tensor", "mxfp4-rceil", "nvfp4", "uint8/g16"])
def test_scales_of_a_tensor_are_those_of_the_array(text: str) -> None:
    format = parse(text)
    x = numbers(5, 48)
    found, expected = torch_tensors.scales_of(x, format), reference.quantize(x.numpy(), format)
    assert np.array_equal(found.scale.numpy(), expected.scale)
    assert np.array_equal(found.zero_point.numpy(), expected.zero_point)
    assert found.tensor_scale.item() == expected.tensor_scale


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("overflow", list(Overflow))
def test_modes_reach_the_kernels(rounding: Rounding, overflow: Overflow) -> None:
    x = numbers(1000) * 300
    key = KEY if rounding is Rounding.STOCHASTIC else None
    expected = reference.fake_quantize(x.numpy(), parse("fp8_e4m3"), None, rounding, overflow, key)
    found = fake_quantize(x, "fp8_e4m3", rounding=rounding, overflow=overflow, key=key)
    assert np.array_equal(found.numpy(), expected, equal_nan=True)
