"""Schemes as labels that fit a column."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Final

from fewbits.formats.scheme import BF16, FP16, FP32, INT8_STATIC, Scheme, integer

_KNOWN: Final = {str(FP32): "fp32", str(BF16): "bf16", str(FP16): "fp16", str(INT8_STATIC): "int8"}


def scheme_labels(schemes: Iterable[str]) -> dict[str, str]:
    """Scheme to label: the well-known ones by their names, weights alone as ``w8`` or ``w4``,
    ranges found at every call with a ``d``, smoothed ones with a ``~``, and ``-2``, ``-3``, …
    behind a label that stands for another scheme already."""
    labels: dict[str, str] = {}
    for scheme in dict.fromkeys(schemes):
        wanted = _KNOWN.get(scheme) or _short(Scheme.parse(scheme))
        taken = {*labels.values(), *(label for text, label in _KNOWN.items() if text != scheme)}
        numbered = (f"{wanted}-{number}" for number in count(2))
        labels[scheme] = wanted if wanted not in taken else next(one for one in numbered if one not in taken)
    return labels


def _short(scheme: Scheme) -> str:
    bits = integer(scheme.weight).bits
    if scheme.is_weight_only:
        return f"w{bits}{'~' if scheme.smoothed else ''}"
    activation = integer(scheme.activation).bits
    if activation != bits:
        return f"w{bits}a{activation}"
    return f"int{bits}{'d' if scheme.dynamic else ''}{'~' if scheme.smoothed else ''}"
