"""What the formats are in words, and where they are defined."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.formats.catalog import SCALED
from fewbits.formats.floating import E2M1, E2M3, E3M2, E8M0, FloatFormat
from fewbits.formats.granularity import Channel, Granularity, Group, Tensor, Tile, Token
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import NF4, BinaryFormat, CodebookFormat, KMeansFormat, TernaryFormat, TernaryRule
from fewbits.formats.scaled import Format, PowerOfTwoScale, ScaledFormat
from fewbits.formats.text import format_text


def in_words(format: Format) -> str:
    """What `format` is, in a few words."""
    match format:
        case ScaledFormat():
            zero_point = " and zero point" if format.asymmetric else ""
            return f"{format.element} with one scale{zero_point} for each {_share(format.granularity)}"
        case FloatFormat():
            return _NAMES.get(str(format)) or "a float given by its fields"
        case IntFormat():
            sign = "signed" if format.signed else "unsigned"
            fixed = f" with {format.fraction} bits behind the binary point" if format.fraction else ""
            return f"{sign} integer of {format.bits} bits{fixed}{', symmetric range' if format.restricted else ''}"
        case BinaryFormat():
            return "-1 and +1"
        case TernaryFormat():
            return f"-1, 0 and +1; {_TERNARY[format.rule]}"
        case KMeansFormat():
            return f"{1 << format.bits} values that k-means fits to the data"
        case CodebookFormat():
            return "NormalFloat4: quantiles of the normal distribution" if format == NF4 else "a fixed list of values"


def _share(granularity: Granularity) -> str:
    match granularity:
        case Tensor():
            return "tensor"
        case Channel(axis=axis):
            return f"channel (axis {axis})"
        case Token():
            return "token (row along the last axis)"
        case Group(size=size, axis=axis):
            return f"group of {size} along {'the last axis' if axis == -1 else f'axis {axis}'}"
        case Tile(sizes=sizes):
            return f"tile of {' x '.join(map(str, sizes))}"


_TERNARY: Mapping[TernaryRule, str] = {
    TernaryRule.OPTIMAL: "support and scale of least squared error",
    TernaryRule.THRESHOLD: "support |x| > 0.7 mean |x|",
    TernaryRule.RMS: "scale sqrt(mean x**2) over its support",
}

_NAMES: Mapping[str, str] = {
    "fp32": "IEEE 754 binary32",
    "tf32": "TensorFloat-32: fp32 with the mantissa of fp16",
    "bf16": "bfloat16: fp32 with 7 mantissa bits",
    "fp16": "IEEE 754 binary16",
    "fp8_e5m2": "FP8 with Inf, for gradients",
    "fp8_e4m3": "FP8 without Inf, for weights and activations",
    "fp8_e5m2fnuz": "FP8 of AMD MI300 and Graphcore, without Inf and -0",
    "fp8_e4m3fnuz": "FP8 of AMD MI300 and Graphcore, without Inf and -0",
    "fp8_e3m4": "FP8 with more precision than range",
    "fp6_e3m2": "FP6 with the range of three exponent bits, every code a number",
    "fp6_e2m3": "FP6 with the precision of three mantissa bits, every code a number",
    "fp4_e2m1": "FP4, every code a number",
    "e8m0": "a power of two: the scale of MX blocks, no sign and no zero",
}

_IEEE = "IEEE 754-2019"
_FP8 = "OCP FP8 v1.0; Micikevicius et al., arXiv 2209.05433"
_MX = "OCP Microscaling Formats (MX) v1.0"
_FNUZ = "Noune et al., arXiv 2206.02915"
_SOURCES: Mapping[str, str] = {
    "fp32": _IEEE,
    "fp16": _IEEE,
    "tf32": "NVIDIA A100 Tensor Core GPU Architecture, 2020",
    "bf16": "Kalamkar et al., arXiv 1905.12322",
    "fp8_e5m2": _FP8,
    "fp8_e4m3": _FP8,
    "fp8_e5m2fnuz": _FNUZ,
    "fp8_e4m3fnuz": _FNUZ,
    "fp8_e3m4": "Kuzmin et al., arXiv 2208.09225; specials as in IEEE 754",
    "nvfp4": "NVIDIA, arXiv 2509.25149 and Transformer Engine",
}


def source_of(format: Format) -> str:
    """Where `format` is defined."""
    if isinstance(format, ScaledFormat):
        name = format_text(format)
        base = name.partition("/")[0].partition("-")[0]
        if base in SCALED:
            return _SOURCES.get(base, _MX)
        if base.startswith("bfp"):
            return "Drumond et al., arXiv 1804.01526 (HBFP)"
        if isinstance(format.scale, PowerOfTwoScale) and isinstance(format.element, IntFormat):
            return "Courbariaux et al., arXiv 1412.7024 (dynamic fixed point)"
        return source_of(format.element)
    match format:
        case FloatFormat():
            default = _MX if format in (E2M1, E2M3, E3M2, E8M0) else "fields as given, the rest as in IEEE 754"
            return _SOURCES.get(str(format), default)
        case IntFormat():
            return "Jacob et al., arXiv 1712.05877"
        case BinaryFormat():
            return "Courbariaux et al., arXiv 1511.00363 (BinaryConnect)"
        case TernaryFormat(rule=rule):
            papers = {TernaryRule.THRESHOLD: "Li et al., arXiv 1605.04711 (TWN)"}
            return papers.get(rule, "Mellempudi et al., arXiv 1705.01462 and 1701.08978")
        case KMeansFormat():
            return "Han et al., arXiv 1510.00149 (Deep Compression)"
        case CodebookFormat():
            return "Dettmers et al., arXiv 2305.14314 (QLoRA)" if format == NF4 else "values as given"
