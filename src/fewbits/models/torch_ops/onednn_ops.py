"""Two operators, `fewbits::int8_linear` and `fewbits::int8_conv`: oneDNN's int8 products of plain, unpacked weights.

PyTorch's own (``onednn::qlinear_pointwise``, ``qconv_pointwise``) take weights in oneDNN's opaque layout, which neither
`torch.compile` nor serialisation knows. These take the plain codes and find the packed ones (`packed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

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
_SIX: Final = 6.0
_BYTE: Final = 255
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
_pointwise_packing = Packing(lambda weight: _packed_linear(weight.flatten(1)))
_conv_packing = Packing(_packed_conv)


class _Behind(NamedTuple):
    """What follows a product: see `int8_linear`. A tuple, as small products take as long as Python to make objects."""

    bias: torch.Tensor | None
    other: torch.Tensor | None
    activation: str
    result: torch.dtype
    out: tuple[float, int]
    """Scale and zero point of the result."""
    added: tuple[float, int]
    """Scale and zero point of `other`."""


_PLAIN: Final = (1.0, 0)


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
    if other is not None:
        _check_other(other, shape)
        other = other.reshape(-1, shape[-1])
    head = (
        x.reshape(-1, x.shape[-1]),
        scale.item(),
        0 if zero is None else int(zero.item()),
        packed,
        weight_scale,
        zeros,
    )
    behind = _Behind(bias, other, activation, result, _ends(out_scale, out_zero), _PLAIN)
    return _rows(head, behind).reshape(shape)


def _rows(head: tuple[object, ...], behind: _Behind) -> torch.Tensor:
    """The product by a matrix, row by row."""
    post, ends, result = _POST[behind.activation], behind.out, behind.result
    if behind.other is None:
        made = torch.ops.onednn.qlinear_pointwise.default(*head, behind.bias, *ends, result, *post)
    else:
        coded = result == torch.uint8
        # Floats that lie column by column, as those of one image do whose channels come first, are read by a reference
        # kernel, hundreds of times slower. oneDNN sums codes in place, and what is added may be read by others.
        rows = torch.contiguous_format
        other = behind.other.clone(memory_format=rows) if coded else behind.other.contiguous()
        made = torch.ops.onednn.qlinear_pointwise.binary(
            *head, other, behind.bias, *ends, result, *behind.added, "sum" if coded else "add", 1.0, *post
        )
    found: torch.Tensor = made
    return found


def _pointwise(
    x: torch.Tensor, numbers: tuple[float, int], weight: torch.Tensor, weight_scale: torch.Tensor, behind: _Behind
) -> torch.Tensor:
    """A convolution of single pixels as the product that it is: oneDNN's kernels for it take a hundred times as long
    for some shapes (960 channels of 160 or 192, two threads with AMX, oneDNN of torch 2.13)."""
    packed, zeros = _pointwise_packing(weight)
    axes = (0, *range(2, x.dim()), 1)
    pixels = x.permute(axes)
    columns = weight.shape[0]
    bias, other, activation, result, out, added = behind
    if other is not None:
        other = other.permute(axes).reshape(-1, columns)
    clipped = activation == Activation.RELU6
    head = (pixels.reshape(-1, x.shape[1]), *numbers, packed, weight_scale, zeros)
    made = _rows(head, _Behind(bias, other, Activation.NONE if clipped else activation, result, out, added))
    if clipped:
        _clip(made, out)
    return made.view(*pixels.shape[:-1], columns).permute((0, x.dim() - 1, *range(1, x.dim() - 1)))


def _clip(made: torch.Tensor, ends: tuple[float, int]) -> None:
    """ReLU6 on `made`, in place; codes that end there need none."""
    if made.dtype != torch.uint8:
        made.clamp_(0.0, _SIX)
        return
    scale, zero = ends
    top = round(_SIX / scale) + zero
    if zero > 0 or top < _BYTE:
        made.clamp_(zero, min(top, _BYTE))


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
    ends, sum_ends = _ends(out_scale, out_zero), _ends(other_scale, other_zero)
    numbers = (scale.item(), 0 if zero is None else int(zero.item()))
    if other is not None:
        _check_other(other, _conv_shape(x, weight, stride, padding, dilation))
    single = weight.numel() == weight.shape[0] * weight.shape[1]
    if single and groups == 1 and max(stride) == 1 and not any(padding):
        return _pointwise(x, numbers, weight, weight_scale, _Behind(bias, other, activation, result, ends, sum_ends))
    packed, zeros = _conv_packing(weight, tuple(stride), tuple(padding), tuple(dilation), groups)
    post = _POST[activation]
    head = (x, *numbers, packed, weight_scale, zeros)
    how = (list(stride), list(padding), list(dilation), groups)
    if other is None:
        made = torch.ops.onednn.qconv_pointwise.default(*head, bias, *how, *ends, result, *post)
    else:
        shape = _conv_shape(x, weight, stride, padding, dilation)
        # oneDNN accumulates in place, and what is added may be read by others, too.
        sums = torch.empty_strided(shape, channels_last(shape), dtype=result).copy_(other)
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


def _ends(scale: torch.Tensor | None, zero: torch.Tensor | None) -> tuple[float, int]:
    """Scale and zero point as numbers; of floats those that change nothing."""
    return _PLAIN if scale is None or zero is None else (scale.item(), int(zero.item()))
