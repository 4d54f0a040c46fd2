"""Every format that has no kernel: operands are rounded as `fewbits.formats` says, products are float32.

So any scheme can be tried on any machine, and what is measured is its accuracy, never its speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from fewbits.errors import SchemeError
from fewbits.formats.granularity import Channel, Tensor
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import KMeansFormat, TernaryFormat
from fewbits.formats.numerics.scales import scales_of_amax, scales_of_range
from fewbits.formats.quantize import dequantize, fake_quantize
from fewbits.formats.scaled import Format, ScaledFormat
from fewbits.formats.text import format_text
from fewbits.models.torch_ops import emulated_ops, refusals
from fewbits.models.torch_ops.cast_layers import apply
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision, present, range_at
from fewbits.models.torch_ops.operation import Call, Range, Sort
from fewbits.models.weight_codes import channel_codes, check_shape, rounded_bias, rounded_weight

_BYTE = 8


class Emulated(LowPrecision):
    """Any of the calls in any scheme. The second operand of a MATMUL has the format of the weight."""

    anywhere = True
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    scale: torch.Tensor | None
    zero: torch.Tensor | None
    second_scale: torch.Tensor | None
    second_zero: torch.Tensor | None

    def __init__(
        self, call: Call, weight: torch.Tensor | None, bias: torch.Tensor | None, ranges: Sequence[Range]
    ) -> None:
        super().__init__(call)
        scheme = call.scheme
        self.activation = None if scheme.activation is None else format_text(scheme.activation)
        self.second = format_text(scheme.weight) if scheme.weight is not None and call.sort is Sort.MATMUL else None
        self.keep("weight", weight)
        self.keep("bias", bias)
        for place, (name, operand) in enumerate((("", scheme.activation), ("second_", scheme.weight))):
            wanted = scheme.is_static and (not place or call.sort is Sort.MATMUL)
            scale, zero = static_scale(operand, range_at(ranges, place, call)) if wanted else (None, None)
            self.keep(f"{name}scale", scale)
            self.keep(f"{name}zero", zero)

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        scheme = call.scheme
        operands = (scheme.activation, scheme.weight) if call.sort is Sort.MATMUL else (scheme.activation,)
        static = ""
        if scheme.is_static:
            static = refusals.first(*(_static_refusal(operand) for operand in operands))
        return refusals.first(
            refusals.padding(call),
            "an embedding reads row numbers, which have no format: name w: only"
            if call.sort is Sort.EMBEDDING and not (scheme.is_weight_only or scheme.is_cast or scheme.is_fp32)
            else "",
            static,
            refusals.result(call, torch.float32, torch.bfloat16, torch.float16),
            refusals.fusion(call),
        )

    @classmethod
    def from_float(
        cls,
        call: Call,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        ranges: Sequence[Range] = (),
        codes: GivenCodes | None = None,
    ) -> Self:
        """See `LowPrecision`. Static 8-bit schemes round the bias, too, to steps of ``s_x * s_w``."""
        if reason := cls.supported(call):
            raise SchemeError(reason)
        offset = None if bias is None else bias.detach().float().cpu()
        if call.sort is Sort.MATMUL:
            return cls(call, None, None, ranges)
        values, operand = present(weight, call), call.scheme.weight
        if codes is not None:
            decoded = dequantize(codes)
            decoded = decoded.T if call.sort is Sort.LINEAR else decoded
            check_shape(decoded.shape, call.shape)
            return cls(call, torch.from_numpy(np.array(decoded, np.float32)), offset, ranges)
        if offset is not None and _is_integer(call) and operand is not None and operand.bits == _BYTE:
            assert isinstance(operand, ScaledFormat) and isinstance(call.scheme.activation, ScaledFormat)
            step = static_scale(call.scheme.activation, range_at(ranges, 0, call))[0]
            made = channel_codes(values, operand, offset.numpy(), float(step))
            offset = torch.from_numpy(rounded_bias(offset.numpy(), made.scale, np.float32(float(step))))
            shape = (-1, *(1,) * (values.ndim - 1))
            return cls(call, torch.from_numpy(made.codes * made.scale.reshape(shape)), offset, ranges)
        return cls(call, torch.from_numpy(_rounded(values, operand, call)), offset, ranges)

    @property
    def computes(self) -> str:
        """That it is not what it looks like."""
        return "emulated in float32"

    def forward(self, x: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """The call on `x`, and on `second` in a MATMUL."""
        if self.call.sort is not Sort.EMBEDDING:
            x = _through(x.float(), self.activation, self.scale, self.zero)
        if second is not None:
            second = _through(second.float(), self.second, self.second_scale, self.second_zero)
        return apply(self.call, x, self.weight, self.bias, second).to(self.call.result)


def static_scale(operand: Format | None, values: Range) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of `operand`, one for the whole tensor, for values of this range."""
    assert isinstance(operand, ScaledFormat)
    low, high = (np.asarray(end, np.float32) for end in (min(values[0], 0.0), max(values[1], 0.0)))
    found = (
        scales_of_range(low, high, operand) if operand.asymmetric else scales_of_amax(np.maximum(-low, high), operand)
    )
    scale = torch.tensor(float(found.scale * found.tensor_scale), dtype=torch.float32)
    return scale, torch.tensor(int(found.zero_point) if operand.asymmetric else 0, dtype=torch.int32)


def _through(
    x: torch.Tensor, format: str | None, scale: torch.Tensor | None, zero: torch.Tensor | None
) -> torch.Tensor:
    return x if format is None else emulated_ops.fake_quantize(x, format, scale, zero)


def _rounded(values: NDArray[np.float32], operand: Format | None, call: Call) -> NDArray[np.float32]:
    """`values` in the format of the weight, whose axes are (depth, columns) for a LINEAR."""
    if operand is None:
        return values.copy()
    linear = call.sort is Sort.LINEAR
    shown = np.ascontiguousarray(values.T) if linear else values
    channels = 1 if linear else 0
    if isinstance(operand, ScaledFormat) and operand.granularity == Channel():
        operand = ScaledFormat(operand.element, Channel(channels), operand.scale, operand.asymmetric)
    if _is_integer(call) and isinstance(operand, ScaledFormat):
        made = rounded_weight(shown, operand, channels)
    else:
        made = fake_quantize(shown, operand)
    return np.array(made.T if linear else made, np.float32, order="C")


def _is_integer(call: Call) -> bool:
    """Whether both operands are static integers with real scales, as `docs/int8.md` has them."""
    weight, activation = call.scheme.weight, call.scheme.activation
    return (
        call.scheme.is_static
        and not refusals.symmetric_weight(weight)
        and isinstance(activation, ScaledFormat)
        and isinstance(activation.element, IntFormat)
    )


def _static_refusal(operand: Format | None) -> str:
    if not isinstance(operand, ScaledFormat) or isinstance(operand.element, TernaryFormat | KMeansFormat):
        return "the values of this format are found in the tensor itself: make it dynamic"
    if operand.granularity != Tensor():
        return f"a static range is one for the whole tensor, the format has one per {operand.granularity}"
    return ""
