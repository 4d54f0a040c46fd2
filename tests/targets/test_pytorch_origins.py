"""Kernels of a compiled call are led back to the calls of the module: what a GPU would run, as events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent

from fewbits.models.pytorch.converted import Label
from fewbits.models.torch_ops.kernels import Kernel
from fewbits.targets.protocol import Executed
from fewbits.targets.pytorch_eager import products_by_call
from fewbits.targets.pytorch_origins import Operator, Origins, led_back

LABELS = (
    Label("x.bfloat16"),
    Label("linear"),
    Label("gelu"),
    Label("coded", "s8 x s8 -> bfloat16, int_mm", "int8"),
    Label("stored", "bfloat16 x s8 -> bfloat16, decoded", "fp32"),
    Label("fine", "tf32 x tf32 -> float32", "tf32"),
)
BF16, FLOAT, BYTE = torch.bfloat16, torch.float32, torch.int8
NVJET = "nvjet_sm90_tst_64x104_64x10_4x2_h_bz_TNT"
SIMT = "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x64x8_stage3"


def origins(*operators: tuple[str, int, torch.dtype]) -> Origins:
    """Products of 8 x 16 by 16 x 4, by operator, number of the call, and type of the operands."""
    made = [Operator(name, ((8, 16), (16, 4)), (dtype, dtype), number) for name, number, dtype in operators]
    return Origins(made, {number: dtype for _, number, dtype in operators})


def back(name: str, known: Origins, *ran: Kernel) -> list[Executed]:
    event = FunctionEvent(1, name, 0, 0.0, 1.0, input_shapes=[[8, 16], [16, 4]])
    return list(led_back(event, known, LABELS, ran, 1e-5))


def test_a_product_of_a_library_has_the_precision_of_its_kernel() -> None:
    known = origins(("aten::mm", 1, BF16), ("aten::_int_mm", 3, BYTE))
    (found,) = back("aten::mm", known, Kernel("aten::mm", NVJET, "bf16", 1e-5))
    assert (found.name, found.precision, found.kernel) == ("linear", "bf16", f"aten::mm {NVJET}")
    # A module that says int8, and whose operands are bytes, but what was launched multiplies floats.
    (found,) = back("aten::_int_mm", known, Kernel("aten::mm", SIMT, "fp32", 1e-5))
    assert (found.name, found.precision) == ("coded", "fp32")


def test_tf32_is_told_from_fp32_although_both_read_float32() -> None:
    for precision in ("tf32", "fp32"):
        (found,) = back(
            "fewbits::tf32_linear", origins(("fewbits::tf32_linear", 5, FLOAT)), Kernel("aten::mm", "k", precision, 1.0)
        )
        assert (found.name, found.precision) == ("fine", precision)


def test_without_a_kernel_the_types_say_it() -> None:
    (found,) = back("aten::_scaled_mm", origins(("aten::_scaled_mm", 1, torch.float8_e4m3fn)))
    assert (found.kernel, found.precision) == ("aten::_scaled_mm", "fp8")


@pytest.fixture
def switch() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    yield
    matmul.fp32_precision = before


def test_a_template_stands_for_its_product(switch: None) -> None:
    name = "triton_tem_fused_fewbits1x_fewbits2x_3"
    (found,) = back(name, origins(("aten::mm", 1, BF16)))
    assert (found.name, found.precision, found.outputs) == ("linear", "bf16", ("linear", "gelu"))
    assert found.kernel == "aten::mm triton_tem"
    for precision, said in (("ieee", "fp32"), ("tf32", "tf32")):
        torch.backends.cuda.matmul.fp32_precision = precision
        (found,) = back(name, origins(("aten::addmm", 1, FLOAT)))
        assert found.precision == said
    (found,) = back("triton_tem_fused_fewbits4x_0", origins(("aten::mm", 4, FLOAT)))
    assert (found.name, found.precision) == ("stored", "fp32")


def test_other_generated_kernels_have_a_name_with_something_behind() -> None:
    (found,) = back("triton_poi_fused_fewbits0x_0", origins())
    assert (found.name, found.precision) == ("x.bfloat16.fused", "unknown")
    (found,) = back("triton_red_fused_fewbits3x_0", origins())
    assert (found.name, found.precision) == ("coded.fused", "boundary")


class TestCallByCall:
    """What launched kernels say of the calls of a graph."""

    def test_products_have_the_kernel_that_was_launched(self) -> None:
        ran = {
            0: [Kernel("aten::copy_", "elementwise", "fp32", 9.0)],
            1: [Kernel("aten::addmm", NVJET, "bf16", 1.0), Kernel("aten::add", "elementwise", "fp32", 2.0)],
            2: [Kernel("aten::gelu", "elementwise", "bf16", 1.0)],
            3: [Kernel("aten::div", "elementwise", "fp32", 9.0), Kernel("aten::_int_mm", "cutlass", "int8", 1.0)],
            4: [Kernel("aten::mm", NVJET, "bf16", 1.0)],
            5: [Kernel("aten::addmm", SIMT, "fp32", 1.0)],
        }
        found = products_by_call(ran, LABELS)
        assert {number: one.precision for number, one in found.items()} == {1: "bf16", 3: "int8", 5: "fp32"}
        assert found[1].kernel == f"aten::addmm {NVJET}"

    def test_a_module_that_launched_no_product_is_not_believed(self) -> None:
        ran = {3: [Kernel("aten::div", "elementwise", "fp32", 2.0), Kernel("aten::sum", "reduce", "fp32", 9.0)]}
        assert products_by_call(ran, LABELS)[3].precision == "fp32"

    def test_where_nothing_is_told_the_module_is_believed(self) -> None:
        assert not products_by_call({3: [Kernel("aten::_int_mm", "a", "", 1.0)]}, LABELS)
        assert not products_by_call({}, LABELS)
