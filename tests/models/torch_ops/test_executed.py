"""Kernels and precisions are read back as they ran."""

from __future__ import annotations

import pytest
import torch

from fewbits.errors import WorkerError
from fewbits.models.torch_ops.executed import executed, onednn_executed, parse_verbose
from torch_calls import STATIC, convolution, linear

LOG = """onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71)
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:ab::f0 dst:bf16::blocked:ab::f0,,,8x8,0.01
onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx10_1_512_amx,undef,src:u8:a:blocked:ab::f0 \
wei:s8:p:blocked:BA16a64b4a::f8:zpm2 dst:f32:a:blocked:ab::f0,attr-scratchpad:user attr-scales:src0:0:f32+wei:2:f32 \
attr-zero-points:src0:0:s32,,15x70:70x48,0.5
onednn_verbose,v1,primitive,exec,cpu,matmul,ref:any,undef,src:f8_e4m3::blocked:ab::f0 wei:f8_e4m3::blocked:ab::f0 \
dst:f32::blocked:ab::f0,,,1x1:1x1,2
"""


@pytest.mark.parametrize(
    ("scheme", "operator", "precision"),
    [
        (STATIC, "onednn::qlinear_pointwise", "int8"),
        ("w:int8r/channel a:int8r/token dynamic", "aten::_int_mm", "int8"),
        ("w:fp8_e4m3/tensor a:fp8_e4m3/tensor", "aten::_scaled_mm", "fp8"),
        ("w:int8r/channel", "aten::_weight_int8pack_mm", "int8"),
        ("w:int4r/g32@0", "aten::_weight_int4pack_mm_for_cpu", "int4"),
        ("bf16", "aten::addmm", "bf16"),
    ],
)
def test_the_operator_of_each_way(scheme: str, operator: str, precision: str) -> None:
    layer = linear(scheme)
    module = layer.written()
    with torch.no_grad():
        found = executed(lambda: module(*layer.inputs))
    assert (operator, precision) in {(one.operator, one.precision) for one in found}
    assert all(one.seconds >= 0 for one in found)


def test_onednn_says_which_kernel_ran_in_which_precision() -> None:
    for layer in (linear(STATIC), convolution(STATIC)):
        (product,) = (
            one
            for one in onednn_executed(layer.written(), layer.inputs)
            if one.operator in ("matmul", "convolution", "inner_product")
        )
        assert product.precision == "int8"
        assert product.kernel
        assert product.seconds > 0


def test_a_call_that_fails_in_the_other_process() -> None:
    with pytest.raises(WorkerError, match="oneDNN's log failed"):
        onednn_executed(linear(STATIC).written(), [torch.zeros(3, 3)])


def test_the_log_is_read() -> None:
    reorder, product, small = parse_verbose(LOG)
    assert (reorder.operator, reorder.precision) == ("reorder", "fp32")
    assert (product.operator, product.kernel, product.precision) == ("matmul", "brg_matmul:avx10_1_512_amx", "int8")
    assert product.seconds == pytest.approx(5e-4)
    assert (small.kernel, small.precision) == ("ref:any", "fp8")
