"""One plan gives the same codes in PyTorch and in ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits.errors import PlanError
from fewbits.formats.granularity import Channel, Group, Tensor
from fewbits.formats.integer import INT8R, IntFormat
from fewbits.formats.numerics.affine import of_range
from fewbits.formats.quantize import dequantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme
from fewbits.models import onnx_emulate
from fewbits.models.torch_ops.emulated_layers import static_scale
from fewbits.models.torch_ops.writing import write
from fewbits.models.weight_codes import (
    bias_codes,
    channel_codes,
    rounded_bias,
    rounded_weight,
)
from torch_calls import DYNAMIC, EXACT, RANGE, STATIC, away, embedding, linear

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    values = RNG.standard_normal(shape).astype(np.float32)
    values[1] = 0
    values[2] *= 1e-6
    return values


@pytest.mark.parametrize("granularity", [Channel(), Tensor()])
@pytest.mark.parametrize("bits", [8, 7, 4])
@pytest.mark.parametrize("shape", [(6, 5), (6, 2, 3, 3)])
def test_codes_and_biases_are_those_of_the_page(
    shape: tuple[int, ...], bits: int, granularity: Channel | Tensor
) -> None:
    """docs/int8.md in a few lines; ONNX files hold the same (`tests/models/test_onnx_weights.py`)."""
    values, operand = weights(*shape), ScaledFormat(IntFormat(bits, signed=True, restricted=True), granularity)
    most, shared = 2 ** (bits - 1) - 1, granularity == Tensor()
    largest = np.abs(values).reshape(1 if shared else len(values), -1).max(axis=1)
    largest = np.where(largest > 0, largest, largest[largest > 0].min())
    for bias in (None, RNG.standard_normal(6).astype(np.float32) * 100):
        scale = (largest / np.float32(most)).astype(np.float32)
        if bias is not None:
            least = np.abs(bias).astype(np.float64) / (0.01 * 2**30)
            scale = np.maximum(scale, least.max() if shared else least).astype(np.float32)
        found = channel_codes(values, operand, bias, 0.01)
        steps = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1)))
        assert np.array_equal(found.codes, np.clip(steps, -most, most))
        assert np.array_equal(found.scale, np.broadcast_to(scale, 6))
        if bias is not None:
            step = np.broadcast_to(scale * np.float32(0.01), 6)
            codes = bias_codes(bias, step)
            assert np.array_equal(codes, np.rint(bias.astype(np.float64) / step))
            assert np.array_equal(rounded_bias(bias, found.scale, np.float32(0.01)), (codes * step).astype(np.float32))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_emulated_weights_are_those_of_onnx(bits: int) -> None:
    operand = ScaledFormat(IntFormat(bits, signed=True, restricted=True), Channel())
    for axis in (0, 1):
        values = RNG.standard_normal((6, 7)).astype(np.float32)
        wanted = onnx_emulate.rounded_weight(values, operand, axis)
        assert np.array_equal(rounded_weight(values, operand, axis), wanted)


@pytest.mark.parametrize("format", ["int8r/tensor", "uint8/tensor", "uint4/tensor", "int4r/tensor"])
def test_static_scales_are_those_of_onnx(format: str) -> None:
    operand = Scheme.parse(f"w:{format}").weight
    assert isinstance(operand, ScaledFormat) and isinstance(operand.element, IntFormat)
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0), (-3e-42, 1e-42)):
        wanted = of_range(low, high, operand.element)
        scale, zero = static_scale(operand, (low, high))
        assert float(scale) == float(wanted.scale)
        assert int(zero) == int(wanted.zero_point)


@pytest.mark.parametrize("scheme", [STATIC, DYNAMIC, "w:int8r/channel", "w:int8r/channel a:int8r/token dynamic"])
def test_codes_that_a_plan_names_are_taken(scheme: str) -> None:
    layer = linear(scheme)
    assert layer.weight is not None
    given = quantize(np.ascontiguousarray(layer.weight.numpy().T) * np.float32(0.7), ScaledFormat(INT8R, Channel(1)))
    decoded = torch.from_numpy(np.ascontiguousarray(dequantize(given).T))
    found = write(layer.call, layer.weight, layer.bias, [RANGE], given)(*layer.inputs)
    emulated = write(layer.call, layer.weight, layer.bias, [RANGE], given, emulate=True)
    assert emulated.weight is not None and torch.equal(emulated.weight, decoded)
    # The emulation leaves a bias as it is where codes are given.
    assert away(found, emulated(*layer.inputs)) <= 1e-4


@pytest.mark.parametrize("scheme", ["w:int4r/g32@0", "w:uint4/g32@0"])
def test_blocks_that_a_plan_names_are_taken(scheme: str) -> None:
    layer = linear(scheme)
    assert layer.weight is not None and layer.call.scheme.weight is not None
    given = quantize(np.ascontiguousarray(layer.weight.numpy().T) * np.float32(0.7), layer.call.scheme.weight)
    found = write(layer.call, layer.weight, layer.bias, [], given)(*layer.inputs)
    emulated = write(layer.call, layer.weight, layer.bias, [], given, emulate=True)
    assert away(found, emulated(*layer.inputs)) <= EXACT


def test_rows_that_a_plan_names_are_taken() -> None:
    layer = embedding("w:int4r/channel")
    assert layer.weight is not None
    given = quantize(layer.weight.numpy() / 2, ScaledFormat(IntFormat(4, signed=True, restricted=True), Channel()))
    module = write(layer.call, layer.weight, None, [], given)
    assert torch.equal(module(torch.arange(11)), torch.from_numpy(dequantize(given)))


@pytest.mark.parametrize("scheme", [STATIC, "w:int4r/g32@0", "w:fp8_e4m3/tensor a:fp8_e4m3/tensor"])
def test_codes_of_another_model_are_refused(scheme: str) -> None:
    layer, other = linear(scheme), linear(scheme, depth=64)
    assert other.weight is not None and isinstance(layer.call.scheme.weight, ScaledFormat)
    given = quantize(np.ascontiguousarray(other.weight.numpy().T), layer.call.scheme.weight)
    with pytest.raises(PlanError, match="of another model"):
        write(layer.call, layer.weight, None, [RANGE], given)


def test_codes_with_other_scales_are_refused() -> None:
    layer = linear("w:int4r/g32@0")
    assert layer.weight is not None
    given = quantize(np.ascontiguousarray(layer.weight.numpy().T), ScaledFormat(INT8R, Group(16, 0)))
    with pytest.raises(PlanError, match="tiles"):
        write(layer.call, layer.weight, None, [], given)
    with pytest.raises(PlanError, match="scales"):
        write(linear(STATIC).call, layer.weight, None, [RANGE], given)
