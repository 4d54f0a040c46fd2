"""Which formats a machine has instructions for, and what those instructions do with them.

"Natively" means that an instruction multiplies two operands of the format and sums the products in a wider one. A
format that can only be converted saves memory, not arithmetic, and is said to be so. What a runtime makes of the
instructions is another question, which ``fewbits doctor`` answers by measuring.

Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (F16C, VPMADDUBSW, VPMADDWD, AVX-VNNI,
AVX512-VNNI, AVX512-BF16, AVX512-FP16, AMX); Arm Architecture Reference Manual DDI 0487 (FEAT_DotProd, FEAT_I8MM,
FEAT_BF16, FEAT_FP16); NVIDIA PTX ISA 8.7, target notes of ``dp4a``, ``mma``, ``wgmma.mma_async`` and ``tcgen05.mma``,
and NVIDIA's architecture papers for which of these are tensor core operations (int4 is one up to sm_89).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

from fewbits.formats.granularity import Group, Tile
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import BinaryFormat, TernaryFormat
from fewbits.formats.scaled import Element, Format, PowerOfTwoScale, ScaledFormat, ScaleRule
from fewbits.formats.text import format_text
from fewbits.machine import Gpu

CPU = "CPU"


class Use(StrEnum):
    """What an instruction does with a format, the most useful first."""

    PRODUCTS = "products"
    """Products of two operands of this format, summed more widely."""
    SATURATING = "products with 16-bit sums that saturate"
    """Exact only if one of the operands keeps to 7 bits."""
    ELEMENTS = "products of elements"
    """Products within a group or tile; its scale is applied by other instructions."""
    WIDER = "products as a wider format"
    """Products of a format that holds every value of this one: no faster than that one."""
    CONVERSION = "conversion only"
    """Read and written in this format, computed in fp32."""


@dataclass(frozen=True, slots=True)
class Support:
    """`instruction` of `device` (``CPU``, or a GPU's architecture) computes with operands of `format`."""

    format: str
    use: Use
    instruction: str
    device: str = CPU


@dataclass(frozen=True, slots=True)
class _Feature:
    """An instruction set by the name in `fewbits.targets.probe.FEATURES`, and what it adds."""

    name: str
    instruction: str
    formats: tuple[str, ...]
    use: Use = Use.PRODUCTS


_INT8 = ("int8", "uint8")
_CPU: Sequence[_Feature] = (
    _Feature("amx_int8", "AMX-INT8", _INT8),
    _Feature("amx_bf16", "AMX-BF16", ("bf16",)),
    _Feature("amx_fp16", "AMX-FP16", ("fp16",)),
    _Feature("avx_vnni_int8", "AVX-VNNI-INT8", _INT8),
    # One operand of VPDPBUSD is unsigned, the other one signed: int8 times int8 takes an offset on one side.
    _Feature("avx512_vnni", "AVX512-VNNI", (*_INT8, "int16")),
    _Feature("avx_vnni", "AVX-VNNI", (*_INT8, "int16")),
    _Feature("avx512_bf16", "AVX512-BF16", ("bf16",)),
    _Feature("avx512_fp16", "AVX512-FP16", ("fp16",)),
    _Feature("avx512f", "AVX512F", ("fp32",)),
    _Feature("avx2", "AVX2", ("fp32", "int16")),
    _Feature("avx2", "AVX2", _INT8, Use.SATURATING),
    _Feature("f16c", "F16C", ("fp16",), Use.CONVERSION),
    _Feature("i8mm", "FEAT_I8MM", _INT8),
    _Feature("dotprod", "FEAT_DotProd", _INT8),
    _Feature("bf16", "FEAT_BF16", ("bf16",)),
    _Feature("asimdhp", "FEAT_FP16", ("fp16",)),
    _Feature("sve", "SVE", ("fp32",)),
)


@dataclass(frozen=True, slots=True)
class _Unit:
    """What CUDA devices from compute capability `since` to before `until` add."""

    since: tuple[float, float]
    instruction: str
    formats: tuple[str, ...]
    until: tuple[float, float] = (inf, inf)


_TENSOR = "tensor cores"
_CUDA: Sequence[_Unit] = (
    _Unit((0, 0), "CUDA cores", ("fp32",)),
    _Unit((6, 1), "DP4A", _INT8, until=(7, 2)),
    _Unit((7, 0), _TENSOR, ("fp16",)),
    _Unit((7, 2), _TENSOR, _INT8),
    _Unit((7, 5), _TENSOR, ("int4", "uint4", "binary"), until=(9, 0)),
    _Unit((8, 0), _TENSOR, ("bf16", "tf32")),
    _Unit((8, 9), _TENSOR, ("fp8_e4m3", "fp8_e5m2")),
    _Unit((10, 0), _TENSOR, ("fp6_e3m2", "fp6_e2m3", "fp4_e2m1")),
    _Unit((10, 0), _TENSOR, ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "nvfp4")),
)


def on_cpu(features: Collection[str]) -> tuple[Support, ...]:
    """What a CPU with `features` (names as in `Machine.features`) has instructions for; fp32 in any case."""
    found = [
        Support(format, feature.use, feature.instruction)
        for feature in _CPU
        if feature.name in features
        for format in feature.formats
    ]
    if not any(support.format == "fp32" for support in found):
        found.append(Support("fp32", Use.PRODUCTS, "FPU"))
    return tuple(found)


def on_gpu(gpu: Gpu) -> tuple[Support, ...]:
    """What a CUDA device has instructions for."""
    return tuple(
        Support(format, Use.PRODUCTS, unit.instruction, gpu.architecture)
        for unit in _CUDA
        if unit.since <= gpu.capability < unit.until
        for format in unit.formats
    )


def on_machine(features: Collection[str], gpus: Iterable[Gpu] = ()) -> tuple[Support, ...]:
    """What a machine has instructions for, the CPU first; GPUs of one architecture count once."""
    different = {gpu.architecture: gpu for gpu in gpus}.values()
    return (*on_cpu(features), *(support for gpu in different for support in on_gpu(gpu)))


def native(format: Format, machine: Iterable[Support]) -> tuple[Support, ...]:
    """How a machine that has `machine` computes with `format`: for each device, its most useful instructions.

    Empty where a device would have to decode the format by software. Scales of a tensor, channel or token stay
    outside of the sums, hence a format with such scales is as native as its element; scales of groups and tiles do
    not (`Use.ELEMENTS`), unless the device knows the whole block format.
    """
    devices: dict[str, list[Support]] = {}
    for support in machine:
        devices.setdefault(support.device, []).append(support)
    return tuple(found for supports in devices.values() for found in _best(_on_device(format, supports)))


def _best(found: Sequence[Support]) -> tuple[Support, ...]:
    order = tuple(Use)
    best = min((order.index(support.use) for support in found), default=0)
    return tuple(dict.fromkeys(support for support in found if support.use is order[best]))


def _on_device(format: Format, supports: Sequence[Support]) -> Sequence[Support]:
    if not isinstance(format, ScaledFormat):
        return _of_element(format, supports)
    block = _block(format)
    if whole := [support for support in supports if support.format == block]:
        return whole
    found = _best(_of_element(format.element, supports))
    if not isinstance(format.granularity, Group | Tile):
        return found
    return [replace(one, use=Use.ELEMENTS) if one.use is Use.PRODUCTS else one for one in found]


def _of_element(element: Element, supports: Sequence[Support]) -> list[Support]:
    name = _plain(element)
    as_itself = [support for support in supports if support.format == name]
    wider = _WIDER.get(name)
    # Sums of 16 bits are wide enough for the narrower operands that are meant here.
    multiplied = (Use.PRODUCTS, Use.SATURATING)
    as_wider = [replace(one, use=Use.WIDER) for one in supports if one.format == wider and one.use in multiplied]
    return as_itself + as_wider


def _plain(element: Element) -> str:
    """The name of `element` without what no instruction cares for: a symmetric range, a binary point, a rule."""
    if isinstance(element, IntFormat):
        return f"{'' if element.signed else 'u'}int{element.bits}"
    return "ternary" if isinstance(element, TernaryFormat) else str(element)


def _block(format: ScaledFormat) -> str:
    """The name of the block format whatever the axis of its blocks and the rule of its scales."""
    scale, sharing = format.scale, format.granularity
    if isinstance(scale, PowerOfTwoScale):
        scale = replace(scale, rule=ScaleRule.FLOOR)
    if isinstance(sharing, Group):
        sharing = Group(sharing.size)
    return format_text(replace(format, scale=scale, granularity=sharing))


_WIDER: Mapping[str, str] = {
    str(BinaryFormat()): "int8",
    "ternary": "int8",
    **{f"int{bits}": "int8" for bits in range(2, 8)},
    **{f"uint{bits}": "uint8" for bits in range(2, 8)},
    **{f"int{bits}": "int16" for bits in range(9, 16)},
    **{f"uint{bits}": "int16" for bits in range(9, 16)},
}
"""Elements whose codes are values of another and wider, integer format."""
