"""int8 through oneDNN against docs/int8.md in numpy integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fewbits.formats.integer import INT8R, UINT8
from fewbits.formats.numerics.affine import Affine, of_range
from fewbits.models.torch_ops.onednn_layers import Int8Conv, Int8Linear
from fewbits.models.torch_ops.operation import Activation, Added, Convolution
from torch_calls import CONVOLUTIONS, DYNAMIC, RANGE, STATIC, SYMMETRIC, Layer, convolution, linear

F32 = np.float32
OUT = (-3.0, 5.0)
SEVEN = "w:int7r/channel a:uint8/tensor"
ULPS = 2.0**-22
"""A product and a sum, each rounded to float32."""


def weight_codes(layer: Layer) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    assert layer.weight is not None
    values = layer.weight.numpy()
    largest = np.abs(values).reshape(values.shape[0], -1).max(axis=1)
    scale = (largest / F32(63 if str(layer.call.scheme) == SEVEN else 127)).astype(F32)
    return np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int64), scale


def activation_codes(x: torch.Tensor, affine: Affine) -> NDArray[np.int64]:
    steps = np.rint(x.numpy() / affine.scale) + affine.zero_point
    return np.clip(steps, affine.format.qmin, affine.format.qmax).astype(np.int64)


def sums(layer: Layer, affine: Affine) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sums of products of codes, channels last, with the weight's scales."""
    weight, scale = weight_codes(layer)
    centred = activation_codes(layer.inputs[0], affine) - int(affine.zero_point)
    conv = layer.call.convolution
    if conv is None:
        return centred @ weight.T, scale
    convolve = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[weight.ndim]
    exact = convolve(  # sums of integers below 2**53 are exact in float64
        torch.from_numpy(centred).double(),
        torch.from_numpy(weight).double(),
        None,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )
    return np.moveaxis(exact.numpy().astype(np.int64), 1, -1), scale


def last(y: torch.Tensor, layer: Layer) -> NDArray[np.float64]:
    values = y.double().numpy()
    return values if layer.call.convolution is None else np.moveaxis(values, 1, -1)


def static_sums(layer: Layer, affine: Affine) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """With the bias in steps of ``s_x * s_w``; and these steps."""
    acc, scale = sums(layer, affine)
    step = (affine.scale * scale).astype(F32)
    assert layer.bias is not None
    return acc + np.rint(layer.bias.numpy().astype(np.float64) / step).astype(np.int64), step


LAYERS = {
    "linear": lambda scheme: linear(scheme, shape=(50,)),
    "deep linear": lambda scheme: linear(scheme, depth=1000, columns=8, shape=(5,)),
    **{name: lambda scheme, name=name: convolution(scheme, name) for name in CONVOLUTIONS if "empty" not in name},
}
every_layer = pytest.mark.parametrize("name", LAYERS)


@every_layer
@pytest.mark.parametrize("scheme", [STATIC, SYMMETRIC, SEVEN])
def test_static_codes_bit_for_bit(name: str, scheme: str) -> None:
    layer = LAYERS[name](scheme)
    affine, out = of_range(*RANGE, INT8R if scheme == SYMMETRIC else UINT8), of_range(*OUT, UINT8)
    acc, step = static_sums(layer, affine)
    multiplier = (step / out.scale).astype(F32)
    wanted = np.clip(np.rint(acc.astype(F32) * multiplier) + out.zero_point, 0, 255)
    call = replace(layer.call, result=torch.uint8)
    way = Int8Linear if layer.call.convolution is None else Int8Conv
    module = way.from_float(call, layer.weight, layer.bias, [RANGE, OUT])
    found = module(*layer.inputs)
    assert found.dtype == torch.uint8
    differ = last(found, layer) != wanted
    # oneDNN scales sum and bias one after the other, so that a value next to a half may round the other way.
    assert np.abs(last(found, layer) - wanted).max() <= 1
    assert differ.mean() <= 0.001


@every_layer
@pytest.mark.parametrize("scheme", [STATIC, SYMMETRIC])
@pytest.mark.parametrize(("result", "rounding"), [(torch.float32, ULPS), (torch.bfloat16, 2.0**-8)])
def test_static_floats_within_their_rounding(name: str, scheme: str, result: torch.dtype, rounding: float) -> None:
    layer = LAYERS[name](scheme)
    affine = of_range(*RANGE, UINT8 if scheme == STATIC else INT8R)
    acc, step = static_sums(layer, affine)
    wanted = acc * step.astype(np.float64)
    found = replace(layer, call=replace(layer.call, result=result)).written()(*layer.inputs)
    assert found.dtype == result
    # The zero point's part of a convolution stands in the bias, which is rounded to float32 with it.
    shifted = np.abs(int(affine.zero_point) * step * weight_codes(layer)[0].reshape(len(step), -1).sum(axis=1)).max()
    largest = np.abs(wanted).max() + np.abs(layer.bias.numpy()).max() + shifted
    bound = rounding * np.abs(wanted) + ULPS * largest
    assert (np.abs(last(found, layer) - wanted) <= bound).all()


@every_layer
@pytest.mark.parametrize("scheme", [DYNAMIC, f"{SYMMETRIC} dynamic"])
def test_dynamic_floats_within_their_rounding(name: str, scheme: str) -> None:
    layer = LAYERS[name](scheme)
    x = layer.inputs[0]
    affine = of_range(float(x.min()), float(x.max()), INT8R if "int8r/tensor dyn" in scheme else UINT8)
    acc, scale = sums(layer, affine)
    wanted = acc * (affine.scale * scale).astype(F32).astype(np.float64) + layer.bias.numpy()
    bound = ULPS * (np.abs(wanted) + np.abs(wanted).max())
    assert (np.abs(last(layer.written()(x), layer) - wanted) <= bound).all()


def test_codes_go_from_layer_to_layer() -> None:
    first, second = linear(STATIC, 20, 30, (7,)), linear(STATIC, 30, 10, (7,), seed=1)
    inner = Int8Linear.from_float(replace(first.call, result=torch.uint8), first.weight, first.bias, [RANGE, OUT])
    outer = Int8Linear.from_float(second.call, second.weight, second.bias, [OUT])
    codes = inner(*first.inputs)
    out = of_range(*OUT, UINT8)
    decoded = (codes.float() - float(out.zero_point)) * float(out.scale)
    assert torch.equal(outer(codes), outer(decoded))


def single_pixels(scheme: str) -> Layer:
    """A convolution that is computed as a product."""
    return convolution(scheme, "1 x 1")


FUSED = {
    Activation.RELU: functional.relu,
    Activation.GELU: functional.gelu,
    Activation.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
    Activation.SILU: functional.silu,
    Activation.HARDSWISH: functional.hardswish,
    Activation.RELU6: functional.relu6,
}


@pytest.mark.parametrize("added", [Added.NOTHING, Added.FLOATS])
@pytest.mark.parametrize("activation", FUSED)
@pytest.mark.parametrize("make", [linear, convolution, single_pixels])
def test_what_is_fused_is_what_stood_behind(make: object, activation: Activation, added: Added) -> None:
    layer = make(STATIC)  # type: ignore[operator]
    call = replace(layer.call, activation=activation, added=added)
    way = Int8Linear if make is linear else Int8Conv
    if reason := way.supported(call):
        assert f"oneDNN fuses no {activation}" in reason
        return
    alone = layer.written()(*layer.inputs)
    other = torch.randn(alone.shape)
    before = other.clone()
    module = way.from_float(call, layer.weight, layer.bias, [RANGE])
    found = module(*layer.inputs, other) if call.adds else module(*layer.inputs)
    wanted = FUSED[activation](alone + other if call.adds else alone)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(other, before), "what is added may be read by others"
    assert str(activation) in str(module)


@pytest.mark.parametrize("scheme", [STATIC, SYMMETRIC, DYNAMIC])
@pytest.mark.parametrize("added", [Added.NOTHING, Added.FLOATS])
@pytest.mark.parametrize("activation", [Activation.NONE, *FUSED])
def test_for_a_compiler_a_product_is_the_same(activation: Activation, added: Added, scheme: str) -> None:
    layer = linear(scheme)
    for result in (torch.float32, torch.bfloat16, torch.uint8):
        call = replace(layer.call, activation=activation, added=added, result=result)
        if Int8Linear.supported(call):
            continue
        module = Int8Linear.from_float(call, layer.weight, layer.bias, [RANGE, OUT] if scheme != DYNAMIC else [OUT])
        given = (*layer.inputs, torch.randn(6, 45).to(result)) if call.adds else layer.inputs
        torch._dynamo.reset()
        with torch.inference_mode():
            found = torch.compile(module, fullgraph=True, backend="aot_eager")(*given).double()
            wanted = module(*given).double()
        # Of codes one may round the other way; of small floats the last bit may differ.
        bound = 1.0 if result == torch.uint8 else 2.0**-7 if result == torch.bfloat16 else 1e-5
        assert ((found - wanted).abs() <= bound * (1.0 if result == torch.uint8 else 1 + wanted.abs())).all()
        if result == torch.uint8:
            assert (found != wanted).double().mean() <= 0.01


def test_every_activation_is_fused_somewhere() -> None:
    for activation in set(FUSED) - {Activation.RELU6}:
        assert not Int8Linear.supported(replace(linear(STATIC).call, activation=activation))
    for activation in (Activation.RELU, Activation.HARDSWISH, Activation.SILU, Activation.RELU6):
        assert not Int8Conv.supported(replace(convolution(STATIC).call, activation=activation))
    assert not Int8Conv.supported(replace(convolution(STATIC).call, activation=Activation.RELU, added=Added.FLOATS))


@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if "empty" not in name])
def test_codes_are_added_as_the_values_that_they_stand_for(name: str) -> None:
    layer, between = convolution(STATIC, name), (-2.0, 6.0)
    acc, step = static_sums(layer, of_range(*RANGE, UINT8))
    added, out = of_range(*between, UINT8), of_range(0.0, OUT[1], UINT8)
    other = torch.randint(0, 256, layer.written()(*layer.inputs).shape, dtype=torch.uint8)
    before = other.clone()
    call = replace(layer.call, result=torch.uint8, added=Added.CODES, activation=Activation.RELU)
    if reason := Int8Conv.supported(call):
        assert reason == "what is added to is a convolution over 2 axes"
        assert "axis" in name or name == "3 axes"
        return
    found = Int8Conv.from_float(call, layer.weight, layer.bias, [RANGE, between, (0.0, OUT[1])])(*layer.inputs, other)
    values = acc * step.astype(np.float64) + (last(other, layer) - int(added.zero_point)) * float(added.scale)
    wanted = np.clip(np.rint(np.maximum(values, 0.0) / float(out.scale)), 0, 255)
    assert np.abs(last(found, layer) - wanted).max() <= 1
    assert (last(found, layer) != wanted).mean() <= 0.001
    assert torch.equal(other, before)


@pytest.mark.parametrize("scheme", [STATIC, SYMMETRIC])
def test_asymmetric_padding_is_written_out(scheme: str) -> None:
    layer = convolution(scheme)
    weight = torch.randn(16, 8, 2, 2)
    call = replace(layer.call, convolution=Convolution.of((2, 2), padding="same"), shape=(16, 8, 2, 2))
    plain = replace(call, convolution=Convolution.of((2, 2)))
    (x,) = layer.inputs
    padded = Int8Conv.from_float(plain, weight, layer.bias, [RANGE])(functional.pad(x, (0, 1, 0, 1)))
    assert torch.equal(Int8Conv.from_float(call, weight, layer.bias, [RANGE])(x), padded)


@pytest.mark.parametrize("name", ["2 axes", "1 x 1"])
@pytest.mark.parametrize("ends", [(0.0, 6.0), (0.0, 2.0), (0.0, 9.0), (-3.0, 9.5)])
def test_codes_end_where_relu6_does(name: str, ends: tuple[float, float]) -> None:
    layer = convolution(STATIC, name)
    assert layer.weight is not None
    weight = 8 * layer.weight
    call = replace(layer.call, activation=Activation.RELU6)
    floats = Int8Conv.from_float(call, weight, layer.bias, [RANGE])(*layer.inputs)
    assert float(floats.max()) == 6.0 and float(floats.min()) == 0.0
    found = Int8Conv.from_float(replace(call, result=torch.uint8), weight, layer.bias, [RANGE, ends])(*layer.inputs)
    wanted = activation_codes(floats, of_range(*ends, UINT8))
    assert np.abs(found.numpy().astype(np.int64) - wanted).max() <= 1
    assert (found.numpy() != wanted).mean() <= 0.01


class Seen(TorchDispatchMode):
    """Remembers how what is added to a product lies in memory when oneDNN gets it."""

    def __init__(self) -> None:
        super().__init__()
        self.contiguous: list[bool] = []

    def __torch_dispatch__(
        self, func: object, types: object, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        if func is torch.ops.onednn.qlinear_pointwise.binary:
            other = args[6]
            assert isinstance(other, torch.Tensor)
            self.contiguous.append(other.is_contiguous())
        assert callable(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("added", [Added.FLOATS, Added.CODES])
def test_what_is_added_lies_row_by_row(added: Added) -> None:
    """Whatever it was given as: floats of one image whose channels come first are columns, which oneDNN reads by a
    reference kernel."""
    layer = convolution(STATIC, "1 x 1")
    result = torch.uint8 if added is Added.CODES else torch.float32
    call = replace(layer.call, added=added, result=result)
    ranges = [RANGE, *[RANGE, OUT] * (added is Added.CODES)]
    module = Int8Conv.from_float(call, layer.weight, layer.bias, ranges)
    x = layer.inputs[0][:1]
    other = torch.randn(1, layer.call.shape[0], *x.shape[2:], generator=torch.Generator().manual_seed(4))
    other = (other * 40 + 120).clamp(0, 255).to(torch.uint8) if added is Added.CODES else other
    lasting = other.contiguous(memory_format=torch.channels_last)
    with Seen() as seen, torch.inference_mode():
        given = [module(x, one.clone()) for one in (other, lasting)]
    assert torch.equal(*given)
    assert seen.contiguous == [True, True]
