"""Which module computes a call, and the module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from fewbits.errors import SchemeError
from fewbits.models.torch_ops.cast_layers import Cast
from fewbits.models.torch_ops.emulated_layers import Emulated
from fewbits.models.torch_ops.fp8_layers import Fp8Linear
from fewbits.models.torch_ops.integer_layers import IntegerLinear
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision
from fewbits.models.torch_ops.onednn_layers import Int8Conv, Int8Linear
from fewbits.models.torch_ops.operation import Call, Range
from fewbits.models.torch_ops.table_layers import StoredTable
from fewbits.models.torch_ops.tf32_layers import Tf32
from fewbits.models.torch_ops.weight_only_layers import StoredInt4Linear, StoredInt8Linear

KERNELS: Final[tuple[type[LowPrecision], ...]] = (
    Int8Linear,
    Int8Conv,
    IntegerLinear,
    Fp8Linear,
    StoredInt8Linear,
    StoredInt4Linear,
    StoredTable,
    Cast,
    Tf32,
)
"""The ways that really compute so, first choice first."""


def choose(call: Call) -> type[LowPrecision] | str:
    """The first way that takes `call`, or why none does: the reasons of all that compute this sort of call."""
    reasons = {}
    for way in KERNELS:
        reason = way.supported(call)
        if not reason:
            return way
        reasons[way.__name__] = reason
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def write(
    call: Call,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    ranges: Sequence[Range] = (),
    codes: GivenCodes | None = None,
    *,
    emulate: bool = False,
) -> LowPrecision:
    """The module for `call`; arguments as in `LowPrecision.from_float`. `emulate`: in float32, whatever kernels there
    are. Raises SchemeError, with the reasons, if it cannot be written."""
    way = Emulated if emulate else choose(call)
    if isinstance(way, str):
        raise SchemeError(
            f"a {call.sort} cannot compute in {call.scheme} on {call.device} ({way}); choose another scheme, or emulate"
        )
    return way.from_float(call, weight, bias, ranges, codes)
