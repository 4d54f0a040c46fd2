"""Why a way to compute cannot take a call: reasons as text, ``""`` where there is none."""

from __future__ import annotations

from fewbits.formats.floating import E4M3
from fewbits.formats.granularity import Channel, Tensor, Token
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import REAL, Format, ScaledFormat
from fewbits.models.torch_ops.operation import Activation, Call, Sort

_BYTE = 8


def first(*reasons: str) -> str:
    """The first of `reasons` that is one."""
    return next((reason for reason in reasons if reason), "")


def sort(call: Call, *sorts: Sort) -> str:
    """Only `sorts` are written in this way."""
    return "" if call.sort in sorts else f"a {call.sort} has no such kernel; {' and '.join(sorts)} have"


def device(call: Call, *devices: str) -> str:
    """It runs on `devices` only."""
    return "" if call.device in devices else f"the kernel runs on {' and '.join(devices)}, not on {call.device}"


def padding(call: Call) -> str:
    """Kernels pad as much behind as in front."""
    conv = call.convolution
    if conv is None or conv.is_symmetric:
        return ""
    return (
        f"the padding is asymmetric ({conv.padding} in front, {conv.end} behind), which no kernel takes: pad the input "
        "by a call of its own before"
    )


def fusion(call: Call) -> str:
    """It fuses nothing behind the product."""
    fused = call.activation is not Activation.NONE or call.adds
    return "nothing is fused behind it: leave the activation and the addition as calls of their own" if fused else ""


def result(call: Call, *types: object) -> str:
    """It gives `types` only."""
    return "" if call.result in types else f"it gives {', '.join(map(str, types))}, not {call.result}"


def symmetric_weight(weight: Format | None) -> str:
    """The weight is signed integers of at most 8 bits, with one scale per channel or for all."""
    if not isinstance(weight, ScaledFormat) or not isinstance(weight.element, IntFormat):
        return "the weight is not in integer codes with scales"
    if weight.element.bits > _BYTE or not weight.element.signed or weight.element.fraction:
        return f"the kernel multiplies signed weights of at most 8 bits, not {weight.element}"
    if weight.asymmetric or weight.scale != REAL:
        return "the kernel takes real scales without zero points for the weight"
    if not isinstance(weight.granularity, Channel | Tensor):
        return f"the kernel takes one scale per output channel or for the whole weight, not per {weight.granularity}"
    return ""


def byte_activation(activation: Format | None, *granularities: type[Tensor] | type[Token]) -> str:
    """The activation is integers of at most 8 bits, unsigned with a zero point or signed without."""
    if not isinstance(activation, ScaledFormat) or not isinstance(activation.element, IntFormat):
        return "the activation is not in integer codes with scales"
    if activation.element.bits > _BYTE or activation.element.fraction:
        return f"the kernel multiplies activations of at most 8 bits, not {activation.element}"
    if activation.asymmetric != activation.own_asymmetry or activation.scale != REAL:
        return "the kernel takes unsigned codes with a zero point or signed ones without, and real scales"
    if not isinstance(activation.granularity, granularities):
        return f"the kernel takes one scale for the activation per tensor or token, not per {activation.granularity}"
    return ""


def unsigned_tensor(activation: Format | None) -> str:
    """The activation is unsigned 8-bit codes with a zero point, one scale for the whole."""
    reason = byte_activation(activation, Tensor)
    if reason or not isinstance(activation, ScaledFormat) or not isinstance(activation.element, IntFormat):
        return reason
    if activation.element.signed or activation.element.bits != _BYTE:
        return f"the kernel takes unsigned codes of 8 bits, not {activation.element}"
    return ""


def fp8(operand: Format | None, *granularities: type[Tensor] | type[Token] | type[Channel]) -> str:
    """The operand is fp8_e4m3 with real scales."""
    if not isinstance(operand, ScaledFormat) or operand.element != E4M3 or operand.scale != REAL:
        return "both operands are fp8_e4m3 with real scales"
    if not isinstance(operand.granularity, granularities):
        return f"the kernel takes no scale per {operand.granularity}"
    return ""
