"""The named formats: one name per value, one value per name."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.formats.floating import E2M1, E2M3, E3M2, E4M3, E5M2, FLOATS, FP32
from fewbits.formats.granularity import Group, Tensor
from fewbits.formats.integer import INT8, INT8R, UINT8, IntFormat
from fewbits.formats.levels import NF4, BinaryFormat, TernaryFormat
from fewbits.formats.scaled import Format, NestedScale, PowerOfTwoScale, ScaledFormat

_MX = Group(32)
_INT8_OF_MX = IntFormat(8, signed=True, restricted=True, fraction=6)

SCALED: Mapping[str, ScaledFormat] = {
    "mxfp8_e4m3": ScaledFormat(E4M3, _MX, PowerOfTwoScale()),
    "mxfp8_e5m2": ScaledFormat(E5M2, _MX, PowerOfTwoScale()),
    "mxfp6_e3m2": ScaledFormat(E3M2, _MX, PowerOfTwoScale()),
    "mxfp6_e2m3": ScaledFormat(E2M3, _MX, PowerOfTwoScale()),
    "mxfp4": ScaledFormat(E2M1, _MX, PowerOfTwoScale()),
    "mxint8": ScaledFormat(_INT8_OF_MX, _MX, PowerOfTwoScale()),
    "nvfp4": ScaledFormat(E2M1, Group(16), NestedScale()),
}
"""Formats whose name says element, block and scale (OCP MX v1.0; NVIDIA)."""

CATALOGUE: Mapping[str, Format] = {
    **FLOATS,
    "int16": IntFormat(16, signed=True),
    "int8": INT8,
    "int8r": INT8R,
    "uint8": UINT8,
    "int4": IntFormat(4, signed=True),
    "uint4": IntFormat(4, signed=False),
    "int2": IntFormat(2, signed=True),
    "ternary": TernaryFormat(),
    "binary": BinaryFormat(),
    "nf4": NF4,
    **SCALED,
    "bfp8": ScaledFormat(INT8R, Tensor(), PowerOfTwoScale(storage=FP32)),
}
"""What ``fewbits formats`` lists: every format with a name, and members of the families that have many."""
