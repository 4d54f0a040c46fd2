"""What machines have instructions for, on features of processors and devices that exist."""

from __future__ import annotations

import pytest

from fewbits.formats.catalog import CATALOGUE
from fewbits.formats.text import parse
from fewbits.machine import Gpu
from fewbits.native import CPU, Support, Use, native, on_cpu, on_gpu, on_machine

SAPPHIRE_RAPIDS = (
    *("avx2", "f16c", "avx512f", "avx_vnni", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
)
CASCADE_LAKE = ("avx2", "f16c", "avx512f", "avx512_vnni")
HASWELL = ("avx2", "f16c")
GRAVITON3 = ("dotprod", "i8mm", "bf16", "asimdhp", "sve")
GRAVITON2 = ("dotprod", "asimdhp")

VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL = (
    Gpu(name, capability)
    for name, capability in (
        ("Tesla V100", (7, 0)),
        ("Tesla T4", (7, 5)),
        ("A100", (8, 0)),
        ("L4", (8, 9)),
        ("H200", (9, 0)),
        ("B200", (10, 0)),
    )
)


def on(machine: tuple[Support, ...], text: str) -> list[tuple[str, Use]]:
    return [(support.instruction, support.use) for support in native(parse(text), machine)]


@pytest.mark.parametrize(
    ("features", "text", "expected"),
    [
        (
            SAPPHIRE_RAPIDS,
            "int8",
            [("AMX-INT8", Use.PRODUCTS), ("AVX512-VNNI", Use.PRODUCTS), ("AVX-VNNI", Use.PRODUCTS)],
        ),
        (SAPPHIRE_RAPIDS, "bf16", [("AMX-BF16", Use.PRODUCTS), ("AVX512-BF16", Use.PRODUCTS)]),
        (SAPPHIRE_RAPIDS, "fp16", [("AVX512-FP16", Use.PRODUCTS)]),
        (SAPPHIRE_RAPIDS, "fp8_e4m3", []),
        (CASCADE_LAKE, "fp16", [("F16C", Use.CONVERSION)]),
        (CASCADE_LAKE, "bf16", []),
        (CASCADE_LAKE, "uint8", [("AVX512-VNNI", Use.PRODUCTS)]),
        (HASWELL, "int8", [("AVX2", Use.SATURATING)]),
        (HASWELL, "int16", [("AVX2", Use.PRODUCTS)]),
        (GRAVITON3, "int8", [("FEAT_I8MM", Use.PRODUCTS), ("FEAT_DotProd", Use.PRODUCTS)]),
        (GRAVITON3, "bf16", [("FEAT_BF16", Use.PRODUCTS)]),
        (GRAVITON3, "fp16", [("FEAT_FP16", Use.PRODUCTS)]),
        (GRAVITON2, "bf16", []),
        ((), "fp32", [("FPU", Use.PRODUCTS)]),
        ((), "int8", []),
    ],
)
def test_processors(features: tuple[str, ...], text: str, expected: list[tuple[str, Use]]) -> None:
    assert on(on_cpu(features), text) == expected


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("fp32", {VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL}),
        ("fp16", {VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL}),
        ("int8", {VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL}),
        ("bf16", {AMPERE, ADA, HOPPER, BLACKWELL}),
        ("tf32", {AMPERE, ADA, HOPPER, BLACKWELL}),
        ("fp8_e4m3", {ADA, HOPPER, BLACKWELL}),
        ("fp8_e5m2", {ADA, HOPPER, BLACKWELL}),
        ("fp8_e4m3fnuz", set()),
        ("fp4_e2m1", {BLACKWELL}),
        ("mxfp8_e5m2", {BLACKWELL}),
        ("mxfp4", {BLACKWELL}),
        ("nvfp4", {BLACKWELL}),
        ("int4", {TURING, AMPERE, ADA}),
        ("binary", {TURING, AMPERE, ADA}),
    ],
)
def test_cuda_devices_that_multiply(text: str, devices: set[Gpu]) -> None:
    every = (VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL)
    found = {gpu for gpu in every if any(one.use is Use.PRODUCTS for one in native(parse(text), on_gpu(gpu)))}
    assert found == devices


@pytest.mark.parametrize(
    ("text", "use"),
    [
        # Scales of a tensor, channel or token are outside of the sums,
        ("int8r/channel", Use.PRODUCTS),
        ("uint8/tensor", Use.PRODUCTS),
        ("int8/token", Use.PRODUCTS),
        ("bfp8", Use.PRODUCTS),
        # those of groups and tiles are not.
        ("int8r/g128", Use.ELEMENTS),
        ("mxint8", Use.ELEMENTS),
        ("bfp8/tile24x24", Use.ELEMENTS),
        # What fits into int8 can be multiplied as int8.
        ("int4", Use.WIDER),
        ("int4r/g128", Use.WIDER),
        ("ternary/channel", Use.WIDER),
        ("binary", Use.WIDER),
    ],
)
def test_scales_and_narrow_integers_on_a_processor(text: str, use: Use) -> None:
    assert on(on_cpu(CASCADE_LAKE), text)[0] == ("AVX512-VNNI", use)


def test_seven_bits_cannot_saturate_16_bit_sums() -> None:
    """The largest sum of two products, 2 * 255 * 64, is below 2**15."""
    assert on(on_cpu(HASWELL), "int7") == [("AVX2", Use.WIDER)]
    assert on(on_cpu(HASWELL), "int8r/g64") == [("AVX2", Use.SATURATING)]


@pytest.mark.parametrize("text", ["mxfp4-rceil", "mxfp4/g32@0", "mxfp8_e4m3-even", "mxfp8_e4m3"])
def test_a_block_format_is_native_whatever_rule_and_axis(text: str) -> None:
    assert on(on_gpu(BLACKWELL), text) == [("tensor cores", Use.PRODUCTS)]


def test_a_block_of_another_size_is_not() -> None:
    assert on(on_gpu(BLACKWELL), "mxfp4/g64") == [("tensor cores", Use.ELEMENTS)]
    assert on(on_gpu(HOPPER), "mxfp8_e4m3") == [("tensor cores", Use.ELEMENTS)]
    assert on(on_gpu(HOPPER), "mxfp4") == []


def test_devices_are_told_apart_and_named_once() -> None:
    machine = on_machine(SAPPHIRE_RAPIDS, (HOPPER, HOPPER))
    found = native(CATALOGUE["bf16"], machine)
    assert [support.device for support in found] == [CPU, CPU, "sm_90"]
    assert native(CATALOGUE["fp8_e4m3"], machine) == (Support("fp8_e4m3", Use.PRODUCTS, "tensor cores", "sm_90"),)


def test_what_machines_support_has_a_name() -> None:
    supported = {support.format for support in on_machine((*SAPPHIRE_RAPIDS, *GRAVITON3), (TURING, BLACKWELL))}
    assert supported <= set(CATALOGUE)
