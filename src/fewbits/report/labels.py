"""Schemes as labels that fit a column."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Final

from fewbits.formats.floating import FloatFormat
from fewbits.formats.integer import IntFormat
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import BF16, FP16, FP32, INT8_STATIC, Scheme
from fewbits.formats.text import format_text

_KNOWN: Final = {str(FP32): "fp32", str(BF16): "bf16", str(FP16): "fp16", str(INT8_STATIC): "int8"}


def scheme_labels(schemes: Iterable[str]) -> dict[str, str]:
    """Scheme to label: the well-known ones by their names, weights alone as ``w8`` or ``w4``, floats
    with scales as ``fp8``, ranges found at every call with a ``d``, smoothed ones with a ``~``, and ``-2``, ``-3``, …
    behind a label that stands for another scheme already."""
    labels: dict[str, str] = {}
    for scheme in dict.fromkeys(schemes):
        wanted = _KNOWN.get(scheme) or _short(Scheme.parse(scheme))
        taken = {*labels.values(), *(label for text, label in _KNOWN.items() if text != scheme)}
        numbered = (f"{wanted}-{number}" for number in count(2))
        labels[scheme] = wanted if wanted not in taken else next(one for one in numbered if one not in taken)
    return labels


def _short(scheme: Scheme) -> str:
    weight, activation = scheme.weight, scheme.activation
    if not isinstance(weight, ScaledFormat):
        return str(scheme)
    marks = f"{'d' if scheme.dynamic else ''}{'~' if scheme.smoothed else ''}"
    if not isinstance(activation, ScaledFormat):
        return f"w{_width(weight)}{marks}"
    if _width(activation) != _width(weight):
        return f"w{_width(weight)}a{_width(activation)}{marks}"
    return f"{'' if isinstance(weight.element, FloatFormat) else 'int'}{_width(weight)}{marks}"


def _width(operand: ScaledFormat) -> str:
    """Bits of an element, ``8``; of floats ``fp8``, of other codes the format's own name."""
    element = operand.element
    if isinstance(element, IntFormat):
        return str(element.bits)
    return f"fp{element.bits}" if isinstance(element, FloatFormat) else format_text(operand)
