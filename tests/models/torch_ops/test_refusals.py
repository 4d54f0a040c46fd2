"""What cannot be written is refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fewbits.errors import ModelError, PlanError, SchemeError
from fewbits.formats.scheme import Scheme
from fewbits.models.torch_ops.cast_layers import Cast
from fewbits.models.torch_ops.emulated_layers import Emulated
from fewbits.models.torch_ops.fp8_layers import Fp8Linear
from fewbits.models.torch_ops.integer_layers import IntegerLinear
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.models.torch_ops.onednn_layers import Int8Conv, Int8Linear
from fewbits.models.torch_ops.operation import Activation, Added, Call, Convolution, Sort
from fewbits.models.torch_ops.table_layers import StoredTable
from fewbits.models.torch_ops.tf32_layers import Tf32
from fewbits.models.torch_ops.weight_only_layers import StoredInt4Linear, StoredInt8Linear
from fewbits.models.torch_ops.writing import write
from torch_calls import DYNAMIC, RANGE, STATIC, convolution, embedding, linear, matmul

FLOATS = Added.FLOATS
ONE_TOKEN = "w:int8r/channel a:int8r/token dynamic"
SHIFTED = Convolution.of((2, 2), padding="same")


def product(scheme: str, **changes: object) -> Call:
    return replace(linear(scheme).call, **changes)


@pytest.mark.parametrize(
    ("way", "call", "reason"),
    [
        (Int8Linear, product("bf16"), "not in integer codes"),
        (Int8Linear, product(STATIC, device="cuda"), "runs on cpu, not on cuda"),
        (Int8Linear, product("w:int16/channel a:uint8/tensor"), "at most 8 bits, not int16"),
        (Int8Linear, product("w:int8r/g32@0 a:uint8/tensor"), "not per g32@0"),
        (Int8Linear, product("w:int8r/channel a:uint8/channel"), "not per channel"),
        (Int8Linear, product("w:uint8/channel a:uint8/tensor"), "signed weights"),
        (Int8Linear, product("w:int8r/channel/pow2 a:uint8/tensor"), "real scales"),
        (Int8Linear, product("w:int8r/channel a:uint8/tensor/sym"), "unsigned codes with a zero point"),
        (Int8Linear, product(STATIC, result=torch.float64), "not torch.float64"),
        (
            Int8Linear,
            product(STATIC, added=FLOATS, activation=Activation.GELU),
            "no gelu here behind an addition",
        ),
        (Int8Linear, product(STATIC, activation=Activation.RELU6), "fuses no relu6 here"),
        (Int8Linear, product(STATIC, added=FLOATS, result=torch.uint8), "of the result's type"),
        (Int8Linear, product(STATIC, added=Added.CODES, result=torch.uint8), "results of convolutions only"),
        (Int8Conv, replace(convolution(STATIC).call, added=Added.CODES), "of the result's type"),
        (Int8Linear, convolution(STATIC).call, "a convolution has no such kernel"),
        (Int8Conv, replace(convolution(STATIC).call, activation=Activation.GELU), "fuses no gelu here"),
        (Int8Conv, matmul("w:int8r/tensor a:uint8/tensor").call, "a matmul has no such kernel"),
        (IntegerLinear, product("w:int8r/channel a:int8r/token"), "found at every call (dynamic)"),
        (IntegerLinear, product(ONE_TOKEN, activation=Activation.RELU), "nothing is fused"),
        (Fp8Linear, product("w:fp8_e5m2/tensor a:fp8_e4m3/tensor"), "fp8_e4m3"),
        (Fp8Linear, product("w:fp8_e4m3/channel a:fp8_e4m3/tensor"), "the kernel takes one scale for both"),
        (Fp8Linear, product("w:fp8_e4m3/channel a:fp8_e4m3/token"), "found at every call"),
        (StoredInt8Linear, product(STATIC), "the activation is in codes, too"),
        (StoredInt8Linear, product("w:int4r/g32@0"), "not per g32@0"),
        (StoredInt4Linear, product("w:int8r/channel"), "4 bits"),
        (StoredInt4Linear, product("w:int4r/g16@0"), "32, 64, 128, 256 neighbours along the depth"),
        (StoredInt4Linear, product("w:int4r/g32"), "along the depth (g32@0)"),
        (StoredTable, embedding(STATIC).call, "row numbers"),
        (Cast, product("fp32"), "not a type"),
        (Tf32, product("tf32"), "runs on cuda, not on cpu"),
        (Tf32, product("bf16"), "not tf32"),
        (Emulated, product("w:int8r/channel a:uint8/token"), "one for the whole tensor"),
        (Emulated, embedding(DYNAMIC).call, "row numbers"),
    ],
)
def test_it_is_refused(way: type[LowPrecision], call: Call, reason: str) -> None:
    assert reason in way.supported(call)
    with pytest.raises(SchemeError):
        way.from_float(call, torch.zeros(call.shape), None, [RANGE, RANGE])


@pytest.mark.parametrize("way", [Int8Conv, Cast, Emulated])
def test_asymmetric_padding_is_refused(way: type[LowPrecision]) -> None:
    scheme = {Cast: "bf16", Int8Conv: DYNAMIC}.get(way, STATIC)
    call = replace(convolution(scheme).call, convolution=SHIFTED, shape=(16, 8, 2, 2))
    assert "asymmetric ((0, 0) in front, (1, 1) behind)" in way.supported(call)


def test_nothing_can_take_it() -> None:
    with pytest.raises(SchemeError, match=r"a matmul cannot compute in w:int8r/tensor a:uint8/tensor on cpu .*emulate"):
        write(matmul("w:int8r/tensor a:uint8/tensor").call)


def test_what_is_missing_or_does_not_fit() -> None:
    layer = linear(STATIC)
    assert layer.weight is not None
    with pytest.raises(PlanError, match="needs 1 range"):
        write(layer.call, layer.weight)
    with pytest.raises(PlanError, match="needs 2 range"):
        write(replace(layer.call, result=torch.uint8), layer.weight, None, [RANGE])
    with pytest.raises(PlanError, match=r"has shape \(45, 70\)"):
        write(layer.call, layer.weight.t(), None, [RANGE])
    with pytest.raises(PlanError, match="two operands"):
        write(matmul("bf16").call)(torch.zeros(2, 2))
    with pytest.raises(PlanError, match="beyond what fp16 reaches"):
        write(replace(layer.call, scheme=Scheme.parse("fp16")), layer.weight * 1e6)
    module = write(replace(layer.call, added=FLOATS), layer.weight, None, [RANGE])
    with pytest.raises(ModelError, match="has that shape"):
        module(*layer.inputs, torch.zeros(6, 1))


def test_calls_that_are_none() -> None:
    with pytest.raises(ModelError, match="has attributes"):
        Call(Sort.CONVOLUTION, Scheme(), (1, 1, 1, 1))
    with pytest.raises(ModelError, match="has 2 axes"):
        Call(Sort.LINEAR, Scheme(), (3,))
    with pytest.raises(ModelError, match="one number for each axis"):
        Convolution.of((3, 3), stride=(1, 1, 1))
    with pytest.raises(ModelError, match="same or valid"):
        Convolution.of((3, 3), padding="full")
