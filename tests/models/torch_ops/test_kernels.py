"""What names of GPU kernels say: of cuBLAS, CUTLASS, cuDNN and PyTorch (those of an H200: torch_layers_gpu.json)."""

from __future__ import annotations

import pytest
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import FunctionEvent

from fewbits.models.torch_ops.executed import launched
from fewbits.models.torch_ops.kernels import Kernel, cuda_precision, multiplies, named, product_among

INT8 = (
    "void cutlass::Kernel2<cutlass_80_tensorop_i16832gemm_s8_128x64_128x6_tn_align16>"
    "(cutlass_80_tensorop_i16832gemm_s8_128x64_128x6_tn_align16::Params)"
)
SIMT = "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x64x8_stage3_warpsize2x2x1_ffma_aligna4_alignc4_execute_kernel"
LAYOUT = (
    "void cudnn::engines_precompiled::nchwToNhwcKernel<float, float, float, false, true, (cudnnKernelDataType_t)2>"
    "(cudnn::engines_precompiled::nchw2nhwc_params_t<float>, float const*, float*)"
)
TF32_CONVOLUTION = "sm90_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x64x32_kernel__5x_cudnn"
BF16, HALF, FLOAT, BYTE = "c10::BFloat16", "c10::Half", "float", "signed char"


@pytest.mark.parametrize(
    ("kernel", "operands", "precision"),
    [
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x16_stage4_warpsize2x2x1", [FLOAT], "tf32"),
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x64x32_warpgroupsize1x1x1_execute", [FLOAT, FLOAT], "tf32"),
        ("cutlass_80_tensorop_s1688gemm_128x256_16x3_tn_align4", [FLOAT, FLOAT], "tf32"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64_64x6_tn_align8>", [], "bf16"),
        ("void cutlass::Kernel2<cutlass_75_tensorop_bf16_s1688gemm_bf16_64x64_nn_align1>", [], "bf16"),
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x64_warpgroupsize1x1x1_execute", [], "fp16"),
        (INT8, [BYTE, BYTE], "int8"),
        ("sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x128x128", [], "fp8"),
        ("void tinygemm_m16n8k16_chunk_kernel<ALayout_RM, BLayout_TC_int4>", [BF16], "int4"),
        ("ampere_sgemm_128x64_tn", [FLOAT, FLOAT], "fp32"),
        (SIMT, [FLOAT, FLOAT], "fp32"),
        ("nvjet_tst_128x128_64x4_1x2_h_bz_coopA_NNT", [BF16, BF16], "bf16"),
        ("nvjet_sm90_tst_64x104_64x10_4x2_h_bz_bias_TNT", [], "bf16"),
        ("nvjet_sm90_hsh_64x104_64x10_4x2_h_bz_bias_TNT", [], "fp16"),
        ("nvjet_qqtst_128x128_128x4_1x2_h_bz_coopA_TNT", ["c10::Float8_e4m3fn", "", FLOAT], "fp8"),
        ("nvjet_sm90_qqsss_128x40_128x10_4x1_v_bz_algo2_TNT", [], "fp8"),
        ("nvjet_sss_128x128_32x4_1x2", [FLOAT, FLOAT], "tf32"),
        ("nvjet_sm90_sss_128x128_32x4_1x2", [], "tf32"),
        # Named f16, whichever of the two it is; and a name with the type that is summed in.
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", [BF16, BF16, BF16], "bf16"),
        ("void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, 128>", [BF16], "bf16"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80", [FLOAT, FLOAT, FLOAT], "fp32"),
        ("void gemvNSP_kernel<float, float, float, float, 1, 32, 4, 1024>", [FLOAT, FLOAT], "fp32"),
        ("triton_poi_fused_0", [], ""),
    ],
)
def test_names_of_cuda_kernels(kernel: str, operands: list[str], precision: str) -> None:
    assert cuda_precision(kernel, operands) == precision


@pytest.mark.parametrize(
    ("operator", "is_product"),
    [
        ("aten::addmm", True),
        ("aten::bmm", True),
        ("aten::addmv", True),
        ("aten::_int_mm", True),
        ("aten::_scaled_mm", True),
        ("aten::_weight_int4pack_mm", True),
        ("aten::cudnn_convolution", True),
        ("aten::_scaled_dot_product_flash_attention", True),
        ("aten::_cudnn_rnn", True),
        ("aten::add_", False),
        ("aten::copy_", False),
        ("aten::mul", False),
        ("aten::amax", False),
        ("aten::_convert_weight_to_int4pack", False),
        ("aten::native_layer_norm", False),
    ],
)
def test_operators_that_multiply(operator: str, is_product: bool) -> None:
    assert multiplies(operator) == is_product


def test_a_product_is_not_the_layout_that_is_made_for_it() -> None:
    ran = [
        Kernel("aten::cudnn_convolution", LAYOUT, "fp32", 9.0),
        Kernel("aten::cudnn_convolution", TF32_CONVOLUTION, "tf32", 3.0),
        Kernel("aten::add_", "void at::native::vectorized_elementwise_kernel<4, float>", "fp32", 5.0),
    ]
    assert product_among(ran) == ran[1]
    assert product_among(ran[2:]) is None
    # Of several products the slowest says it, and one that says nothing says nothing.
    parts = [Kernel("aten::_cudnn_rnn", "a", "bf16", 1.0), Kernel("aten::_cudnn_rnn", "b", "", 9.0)]
    assert product_among(parts) == parts[0]


def test_kernels_are_shown_without_their_templates() -> None:
    shown = [named(Kernel("aten::mm", kernel, "", 0.0)).kernel for kernel in (INT8, LAYOUT, SIMT, "aten::mm")]
    assert shown == [
        "aten::mm cutlass_80_tensorop_i16832gemm_s8_128x64_128x6_tn_align16",
        "aten::mm cudnn::engines_precompiled::nchwToNhwcKernel",
        f"aten::mm {SIMT[:100]}",
        "aten::mm",
    ]


def event(name: str, number: int, *kernels: tuple[str, float]) -> FunctionEvent:
    """What the profiler makes of an operator that launched `kernels`, each with its microseconds."""
    made = FunctionEvent(number, name, 0, 0.0, 1.0, device_type=DeviceType.CPU)
    for kernel, duration in kernels:
        made.append_kernel(kernel, 0, duration)
    return made


def test_what_the_profiler_does_for_itself_counts_no_kernel_twice() -> None:
    """As seen with torch 2.11: an event of the profiler within an operator has its number, and its kernels again."""
    events = [event("aten::addmm", 7, (SIMT, 20.0)), event("Activity Buffer Request", 7, (SIMT, 20.0))]
    events += [event("fewbits_call,3", 8, ("fewbits_call,3", 90.0)), event("triton_poi_fused_x_0", 9, ("t", 3.0))]
    found = list(launched(events, {7: (FLOAT, FLOAT)}))
    assert [(one.operator, one.precision) for one in found] == [("aten::addmm", "fp32"), ("triton_poi_fused_x_0", "")]
    assert [one.seconds for one in found] == pytest.approx([20e-6, 3e-6])
