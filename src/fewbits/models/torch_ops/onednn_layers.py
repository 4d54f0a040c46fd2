"""int8 on the CPU through oneDNN: u8 or s8 activations times s8 weights, summed in 32 bits, then scaled in float32.

``y = act(acc * (s_x * s_w) + bias + other)``, rounded once to the result's type (docs/int8.md). A static bias is what
its int32 codes stand for. In a static convolution the zero point's part, ``-z_x * s_x * s_w * sum(q_w)``, stands in the
bias, too: oneDNN sums up the weights for it at every call, which takes longer than the convolution itself where images
are small and channels many.

To a compiler or an exporter a linear layer is a product of int8 matrices among torch's own operations: what stands
around it is fused, and a program without Python can run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fewbits.errors import SchemeError
from fewbits.formats.granularity import Tensor
from fewbits.formats.integer import UINT8
from fewbits.formats.numerics.affine import of_range
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import integer
from fewbits.models.torch_ops import refusals
from fewbits.models.torch_ops.activation_codes import SHIFT, Ends, dynamic_scale, encode
from fewbits.models.torch_ops.integer_ops import int8_sums, signed
from fewbits.models.torch_ops.module import GivenCodes, LowPrecision, present, range_at
from fewbits.models.torch_ops.onednn_ops import ADDING_FUSES, CONV_FUSES, LINEAR_FUSES, int8_conv, int8_linear
from fewbits.models.torch_ops.operation import Activation, Added, Call, Range, Sort
from fewbits.models.weight_codes import ChannelCodes, channel_codes, given_channel_codes, rounded_bias

_OF_IMAGES = 4
_ACTIVATIONS: Final[Mapping[Activation, Callable[[torch.Tensor], torch.Tensor]]] = {
    Activation.NONE: lambda x: x,
    Activation.RELU: functional.relu,
    Activation.GELU: functional.gelu,
    Activation.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
    Activation.SILU: functional.silu,
    Activation.HARDSWISH: functional.hardswish,
}
"""Those behind a product (`LINEAR_FUSES`), as torch computes them."""
_RESULTS = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)


class _Int8(LowPrecision):
    """The parts that products and convolutions share. `x` may be codes already (uint8), of the range of the input."""

    codes: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor
    zero: torch.Tensor
    out_scale: torch.Tensor | None
    out_zero: torch.Tensor | None
    other_scale: torch.Tensor | None
    other_zero: torch.Tensor | None

    def __init__(self, call: Call, weight: ChannelCodes, bias: torch.Tensor | None, ranges: Sequence[Range]) -> None:
        super().__init__(call)
        element = integer(call.scheme.activation)
        self.dynamic, self.signed, self.ends = call.scheme.dynamic, element.signed, Ends.of(element)
        self.activation, self.result = str(call.activation), call.result
        self.keep("codes", torch.from_numpy(weight.codes))
        self.keep("weight_scale", torch.from_numpy(weight.scale))
        self.keep("bias", bias)
        shift = SHIFT if self.signed else 0
        self.moved = self.ends.moved(shift)
        scale, zero = (1.0, 0) if self.dynamic else _affine(call, range_at(ranges, 0, call))
        self.keep("scale", torch.tensor(scale, dtype=torch.float32))
        self.keep("zero", torch.tensor(zero + shift, dtype=torch.float32))
        coded = {"other": call.added is Added.CODES, "out": call.gives_codes}
        places = iter(range(0 if self.dynamic else 1, len(ranges) + len(coded) + 1))
        for name, has_codes in coded.items():
            ends = of_range(*range_at(ranges, next(places), call), UINT8) if has_codes else None
            self.keep(f"{name}_scale", None if ends is None else torch.tensor(float(ends.scale), dtype=torch.float32))
            self.keep(f"{name}_zero", None if ends is None else torch.tensor(float(ends.zero_point)))

    @classmethod
    def from_float(
        cls,
        call: Call,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        ranges: Sequence[Range] = (),
        codes: GivenCodes | None = None,
    ) -> Self:
        """See `LowPrecision`."""
        if reason := cls.supported(call):
            raise SchemeError(reason)
        values = present(weight, call)
        assert isinstance(call.scheme.weight, ScaledFormat)
        step = np.float32(1.0 if call.scheme.dynamic else _affine(call, range_at(ranges, 0, call))[0])
        offset = None if bias is None else bias.detach().float().cpu().numpy()
        static = None if call.scheme.dynamic else offset
        if codes is None:
            made = channel_codes(values, call.scheme.weight, static, float(step))
        else:
            made = given_channel_codes(codes, call.shape)
        if offset is not None and static is not None:
            offset = rounded_bias(offset, made.scale, step)
        offset = cls.with_zero_point(call, made, offset, ranges)
        return cls(call, made, None if offset is None else torch.from_numpy(offset.copy()), ranges)

    @classmethod
    def with_zero_point(
        cls, call: Call, weight: ChannelCodes, bias: NDArray[np.float32] | None, ranges: Sequence[Range]
    ) -> NDArray[np.float32] | None:
        """`bias`, with what the kernel is not told of the zero point."""
        return bias

    @property
    def computes(self) -> str:
        """What is multiplied, and what is fused behind."""
        sign = "s8" if self.signed else "u8"
        fused = "".join([" + other"] * self.call.adds + [f" {self.call.activation}"] * (self.call.activation != "none"))
        return f"{sign} x s8 -> {str(self.call.result).removeprefix('torch.')}{fused}, oneDNN"

    def inputs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Unsigned codes of `x`, their scale and their zero point."""
        if x.dtype == torch.uint8 and not self.dynamic:
            return x, self.scale, self.zero
        if not self.dynamic:
            return encode(x, self.scale, self.zero, self.moved, torch.uint8), self.scale, self.zero
        scale, zero = dynamic_scale(x, self.ends, per_row=False)
        zero = zero + SHIFT if self.signed else zero
        return encode(x, scale, zero, self.moved, torch.uint8), scale, zero


class Int8Linear(_Int8):
    """Product by a constant matrix; `x` has any number of axes, the last one is the depth."""

    sums: torch.Tensor

    def __init__(self, call: Call, weight: ChannelCodes, bias: torch.Tensor | None, ranges: Sequence[Range]) -> None:
        super().__init__(call, weight, bias, ranges)
        self.keep("sums", torch.from_numpy(weight.codes.sum(axis=1, dtype=np.int32)))

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        return refusals.first(refusals.sort(call, Sort.LINEAR), _refusal(call, LINEAR_FUSES))

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """`x` times the weight, plus `other` if the call adds one."""
        codes, scale, zero = self.inputs(x)
        if torch.compiler.is_compiling():
            return self._composed(codes, scale, zero, other)
        made: torch.Tensor = int8_linear(
            codes,
            scale,
            zero,
            self.codes,
            self.weight_scale,
            self.bias,
            other,
            self.activation,
            self.result,
            self.out_scale,
            self.out_zero,
        )
        return made

    def _composed(
        self, codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, other: torch.Tensor | None
    ) -> torch.Tensor:
        """The same numbers by torch's own operations."""
        rows = signed(codes).reshape(-1, codes.shape[-1])
        acc = int8_sums(rows, self.codes) - (zero.to(torch.int32) - SHIFT) * self.sums
        made = (acc.float() * (scale * self.weight_scale)).reshape(*codes.shape[:-1], self.codes.shape[0])
        if self.bias is not None:
            made = made + self.bias
        if other is not None:
            made = made + other.float()
        made = _ACTIVATIONS[self.call.activation](made)
        if self.out_scale is None or self.out_zero is None:
            return made.to(self.result)
        return encode(made, self.out_scale, self.out_zero, Ends.of(UINT8), torch.uint8)


class Int8Conv(_Int8):
    """Convolution over 1 to 3 axes; `x` is (batch, channels, *spatial) or without the batch."""

    def __init__(self, call: Call, weight: ChannelCodes, bias: torch.Tensor | None, ranges: Sequence[Range]) -> None:
        super().__init__(call, weight, bias, ranges)
        conv = call.convolution
        assert conv is not None
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        # Zero points that are in the bias stand for 0 in the borders only if the borders are written out.
        self.fill = 0 if self.dynamic else int(self.zero)
        padded = any((*conv.padding, *conv.end)) and not (self.fill == 0 and conv.is_symmetric)
        pairs = zip(reversed(conv.padding), reversed(conv.end), strict=True)
        self.borders = [size for pair in pairs for size in pair] if padded else []
        self.padding = tuple(0 for _ in conv.padding) if padded else conv.padding

    @classmethod
    def with_zero_point(
        cls, call: Call, weight: ChannelCodes, bias: NDArray[np.float32] | None, ranges: Sequence[Range]
    ) -> NDArray[np.float32] | None:
        """See above."""
        if call.scheme.dynamic:
            return bias
        scale, zero = _affine(call, range_at(ranges, 0, call))
        zero += SHIFT if integer(call.scheme.activation).signed else 0
        if not zero:
            return bias
        totals = weight.codes.reshape(weight.codes.shape[0], -1).sum(axis=1, dtype=np.int64)
        steps = np.broadcast_to(weight.scale, totals.shape).astype(np.float64) * scale
        part: NDArray[np.float32] = ((0.0 if bias is None else bias) - zero * totals * steps).astype(np.float32)
        return part

    @staticmethod
    def supported(call: Call) -> str:
        """See `LowPrecision`."""
        padding = refusals.padding(call) if call.scheme.dynamic else ""
        return refusals.first(refusals.sort(call, Sort.CONVOLUTION), padding, _refusal(call, CONV_FUSES))

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """`x` convolved with the weight, plus `other` if the call adds one; channels-last in memory."""
        alone = x.dim() == self.codes.dim() - 1
        codes, scale, zero = self.inputs(x.unsqueeze(0) if alone else x)
        if self.borders:
            codes = functional.pad(codes, self.borders, value=self.fill)
        made: torch.Tensor = int8_conv(
            codes,
            scale,
            zero if self.dynamic else None,
            self.codes,
            self.weight_scale,
            self.bias,
            other.unsqueeze(0) if alone and other is not None else other,
            self.activation,
            self.result,
            self.out_scale,
            self.out_zero,
            self.other_scale,
            self.other_zero,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
        return made.squeeze(0) if alone else made


def _affine(call: Call, values: Range) -> tuple[float, int]:
    found = of_range(*values, integer(call.scheme.activation))
    return float(found.scale), int(found.zero_point)


def _refusal(call: Call, fuses: frozenset[Activation]) -> str:
    allowed = fuses & ADDING_FUSES if call.adds else fuses
    behind = " behind an addition" if call.adds else ""
    fused = "" if call.activation in allowed else f"oneDNN fuses no {call.activation} here{behind}"
    return refusals.first(
        refusals.device(call, "cpu"),
        refusals.symmetric_weight(call.scheme.weight),
        refusals.byte_activation(call.scheme.activation, Tensor),
        refusals.result(call, *_RESULTS),
        fused,
        _sum_refusal(call),
    )


def _sum_refusal(call: Call) -> str:
    if not call.adds:
        return ""
    if (call.added is Added.CODES) != call.gives_codes:
        return "what is added is of the result's type: codes to codes, floats to floats"
    if call.sort is Sort.LINEAR:
        return "codes are added to the results of convolutions only" if call.gives_codes else ""
    return "" if len(call.shape) == _OF_IMAGES else "what is added to is a convolution over 2 axes"
