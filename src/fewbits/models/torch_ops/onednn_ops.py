"""Two operators, `fewbits::int8_linear` and `fewbits::int8_conv`: oneDNN's int8 products of plain, unpacked weights.

PyTorch's own (``onednn::qlinear_pointwise``, ``qconv_pointwise``) take weights in oneDNN's opaque layout, which neither
`torch.compile` nor serialisation knows. These take the plain codes and find the packed ones (`packed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch

from fewbits.errors import ModelError
from fewbits.models.torch_ops.operation import Activation
from fewbits.models.torch_ops.operators import define
from fewbits.models.torch_ops.packed import Packing

_POST: Final[Mapping[str, tuple[str, list[float], str]]] = {
    Activation.NONE: ("none", [], ""),
    Activation.RELU: ("relu", [], ""),
    Activation.GELU: ("gelu", [], "none"),
    Activation.GELU_TANH: ("gelu", [], "tanh"),
    Activation.SILU: ("swish", [], ""),
    Activation.HARDSWISH: ("hardswish", [], ""),
    Activation.RELU6: ("hardtanh", [0.0, 6.0], ""),
}
"""Activation → oneDNN's name, its numbers and its algorithm."""
LINEAR_FUSES: Final = frozenset(Activation) - {Activation.RELU6}
CONV_FUSES: Final = frozenset(
    {Activation.NONE, Activation.RELU, Activation.SILU, Activation.HARDSWISH, Activation.RELU6}
)
ADDING_FUSES: Final = frozenset({Activation.NONE, Activation.RELU})
"""What may follow an addition."""


def _packed_linear(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
    return torch.ops.onednn.qlinear_prepack.default(weight, None), zeros


def _packed_conv(
    weight: torch.Tensor, stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    channels = weight.shape[0]
    # Scale and zero point of the input do not change what is packed; oneDNN wants to be told some.
    packed = torch.ops.onednn.qconv_prepack.default(
        weight, torch.ones(channels), 1.0, 0, stride, padding, dilation, groups, None
    )
    return packed, torch.zeros(channels, dtype=torch.int32)


_linear_packing = Packing(_packed_linear)
_conv_packing = Packing(_packed_conv)


def _linear(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    other: torch.Tensor | None,
    activation: str,
    result: torch.dtype,
    out_scale: torch.Tensor | None,
    out_zero: torch.Tensor | None,
) -> torch.Tensor:
    packed, zeros = _linear_packing(weight)
    shape = (*x.shape[:-1], weight.shape[0])
    post = _POST[activation]
    ends = (_number(out_scale, 1.0), int(_number(out_zero, 0)))
    head = (x.reshape(-1, x.shape[-1]), float(scale.item()), int(_number(zero, 0)), packed, weight_scale, zeros)
    if other is None:
        made = torch.ops.onednn.qlinear_pointwise.default(*head, bias, *ends, result, *post)
    else:
        _check_other(other, shape)
        rows = other.reshape(-1, shape[-1])
        made = torch.ops.onednn.qlinear_pointwise.binary(*head, rows, bias, *ends, result, 1.0, 0, "add", 1.0, *post)
    found: torch.Tensor = made.reshape(shape)
    return found


def _conv(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    other: torch.Tensor | None,
    activation: str,
    result: torch.dtype,
    out_scale: torch.Tensor | None,
    out_zero: torch.Tensor | None,
    other_scale: torch.Tensor | None,
    other_zero: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    packed, zeros = _conv_packing(weight, tuple(stride), tuple(padding), tuple(dilation), groups)
    post = _POST[activation]
    ends = (_number(out_scale, 1.0), int(_number(out_zero, 0)))
    head = (x, float(scale.item()), int(_number(zero, 0)), packed, weight_scale, zeros)
    how = (list(stride), list(padding), list(dilation), groups)
    if other is None:
        made = torch.ops.onednn.qconv_pointwise.default(*head, bias, *how, *ends, result, *post)
    else:
        shape = _conv_shape(x, weight, stride, padding, dilation)
        _check_other(other, shape)
        # oneDNN accumulates in place, and what is added may be read by others, too.
        sums = torch.empty_strided(shape, channels_last(shape), dtype=result).copy_(other)
        sum_ends = (_number(other_scale, 1.0), int(_number(other_zero, 0)))
        made = torch.ops.onednn.qconv2d_pointwise.binary(
            *head, sums, bias, *how, *ends, result, *sum_ends, "sum", 1.0, *post
        )
    found: torch.Tensor = made
    strides = channels_last(tuple(found.shape))
    if found.stride() == strides:
        return found
    return torch.empty_strided(found.shape, strides, dtype=found.dtype).copy_(found)


def _meta_linear(x: torch.Tensor, *rest: object) -> torch.Tensor:
    weight, result = rest[2], rest[7]
    assert isinstance(weight, torch.Tensor) and isinstance(result, torch.dtype)
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=result)


def _meta_conv(x: torch.Tensor, *rest: object) -> torch.Tensor:
    weight, result, stride, padding, dilation = rest[2], rest[7], rest[12], rest[13], rest[14]
    assert isinstance(weight, torch.Tensor) and isinstance(result, torch.dtype)
    assert isinstance(stride, Sequence) and isinstance(padding, Sequence) and isinstance(dilation, Sequence)
    shape = _conv_shape(x, weight, stride, padding, dilation)
    return x.new_empty_strided(shape, channels_last(shape), dtype=result)


_OPERANDS: Final = (
    "Tensor x, Tensor scale, Tensor? zero, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor? other, "
    "str activation, ScalarType result, Tensor? out_scale, Tensor? out_zero"
)
define(f"int8_linear({_OPERANDS}) -> Tensor", _meta_linear, cpu=_linear)
define(
    f"int8_conv({_OPERANDS}, Tensor? other_scale, Tensor? other_zero, int[] stride, int[] padding, int[] dilation, "
    "int groups) -> Tensor",
    _meta_conv,
    cpu=_conv,
)


def int8_linear(x: torch.Tensor, *rest: object) -> torch.Tensor:
    """Codes `x` (u8 or s8) times the codes `weight` (s8, (columns, depth)): ``acc * (s_x * s_w) + bias``, plus `other`,
    `activation` of that, as `result`; codes by `out_scale` and `out_zero` if `result` is uint8. Arguments are those of
    the operator ``fewbits::int8_linear``."""
    run: Callable[..., torch.Tensor] = _linear if _is_plain(x) else torch.ops.fewbits.int8_linear.default
    return run(x, *rest)


def int8_conv(x: torch.Tensor, *rest: object) -> torch.Tensor:
    """The same for a convolution of 1 to 3 spatial axes of codes `x` (u8); `other` is of the result's type, codes by
    `other_scale` and `other_zero` if that is uint8. Without `zero`, that of `x` is 0. The result is channels-last."""
    run: Callable[..., torch.Tensor] = _conv if _is_plain(x) else torch.ops.fewbits.int8_conv.default
    return run(x, *rest)


def _is_plain(x: torch.Tensor) -> bool:
    """Whether this is a call on numbers, of which nobody makes a graph: then an operator of our own, which costs as
    much as a small product, is for nothing."""
    return type(x) is torch.Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor of `shape` (batch, channels, *spatial) whose channels are neighbours in memory."""
    strides, step = [0] * len(shape), 1
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        strides[axis] = step
        # As torch counts for tensors without elements.
        step *= shape[axis]
    return tuple(strides)


def _conv_shape(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    sizes = (
        (size + 2 * border - step * (kernel - 1) - 1) // jump + 1
        for size, border, step, kernel, jump in zip(
            x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    )
    return (x.shape[0], weight.shape[0], *sizes)


def _check_other(other: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(other.shape) != shape:
        raise ModelError(f"what is added to a product of shape {shape} has that shape, not {tuple(other.shape)}")


def _number(value: torch.Tensor | None, otherwise: float) -> float:
    return otherwise if value is None else float(value.item())
