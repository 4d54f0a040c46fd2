"""Layers of torch whose products are computed low; their parameters are those of the layer they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fewbits.training.hardware import Float8Linear
from fewbits.training.products import ConvArguments, Product, convolution, linear, matmul

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class LowLinear(nn.Linear):
    """`torch.nn.Linear`, with `how` its product is computed; `real` is the hardware's way, where there is one."""

    how: Product
    real: Float8Linear | None
    out_type: torch.dtype | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layer's output, of the type of `input` unless the rest of the model computes in another."""
        x = input if self.out_type is None or input.dtype is self.out_type else input.to(self.out_type)
        if self.real is not None and self.real.takes(x, self.weight):
            return self.real(x, self.weight, self.bias)
        return linear(x, self.weight, self.bias, self.how)

    def extra_repr(self) -> str:
        """What is printed of the layer."""
        return f"{super().extra_repr()}, low"


class LowConvolution(nn.Module):
    """A convolution of torch, transposed or not, with `how` its product is computed."""

    how: Product
    out_type: torch.dtype | None
    weight: nn.Parameter
    bias: nn.Parameter | None

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """The layer's output, of the type of `input` unless the rest of the model computes in another."""
        x = input if self.out_type is None or input.dtype is self.out_type else input.to(self.out_type)
        whole = self.as_convolution()
        axes = len(whole.kernel_size)
        single = x.ndim == axes + 1
        x = x.unsqueeze(0) if single else x
        if isinstance(whole, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            padding, transposed = _numbers(whole.padding), True
            extra = whole._output_padding(
                x,
                output_size,
                list(whole.stride),
                padding,
                list(whole.kernel_size),
                axes,
                list(whole.dilation),
            )
        else:
            padding, transposed, extra = [0] * axes, False, [0] * axes
            if whole.padding_mode != "zeros":
                x = functional.pad(x, whole._reversed_padding_repeated_twice, mode=whole.padding_mode)
            elif isinstance(whole.padding, str):
                x, padding = _same(x, whole)
            else:
                padding = _numbers(whole.padding)
        arguments: ConvArguments = (
            list(whole.stride),
            padding,
            list(whole.dilation),
            transposed,
            _numbers(extra),
            whole.groups,
        )
        out = convolution(x, self.weight, self.bias, arguments, self.how)
        return out.squeeze(0) if single else out

    def as_convolution(self) -> _Convolution:
        """The layer itself, by the type whose attributes it has."""
        raise NotImplementedError


class LowConv1d(LowConvolution, nn.Conv1d):  # type: ignore[misc]
    """`torch.nn.Conv1d`, low."""

    def as_convolution(self) -> nn.Conv1d:
        """The layer itself."""
        return self


class LowConv2d(LowConvolution, nn.Conv2d):  # type: ignore[misc]
    """`torch.nn.Conv2d`, low."""

    def as_convolution(self) -> nn.Conv2d:
        """The layer itself."""
        return self


class LowConv3d(LowConvolution, nn.Conv3d):  # type: ignore[misc]
    """`torch.nn.Conv3d`, low."""

    def as_convolution(self) -> nn.Conv3d:
        """The layer itself."""
        return self


class LowConvTranspose1d(LowConvolution, nn.ConvTranspose1d):  # type: ignore[misc]
    """`torch.nn.ConvTranspose1d`, low."""

    def as_convolution(self) -> nn.ConvTranspose1d:
        """The layer itself."""
        return self


class LowConvTranspose2d(LowConvolution, nn.ConvTranspose2d):  # type: ignore[misc]
    """`torch.nn.ConvTranspose2d`, low."""

    def as_convolution(self) -> nn.ConvTranspose2d:
        """The layer itself."""
        return self


class LowConvTranspose3d(LowConvolution, nn.ConvTranspose3d):  # type: ignore[misc]
    """`torch.nn.ConvTranspose3d`, low."""

    def as_convolution(self) -> nn.ConvTranspose3d:
        """The layer itself."""
        return self


class LowAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` written out: its projections are low, and its products too if `scores` is given."""

    projections: tuple[Product, ...] | None
    """Of query (of all three, where they are one tensor), key, value and output; None: plain linear layers."""
    scores: tuple[Product, Product] | None
    """Of query with key, and of the probabilities with value."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As in torch: the output, and the weights if they are wanted."""
        batched = query.ndim == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._heads(part) for part in self._projected(query, key, value))
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights: torch.Tensor | None = None
        if self.scores is None and not need_weights:
            out = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        else:
            scaled = q * (1 / sqrt(self.head_dim))
            logits = scaled @ k.mT if self.scores is None else matmul(scaled, k.mT, self.scores[0])
            weights = functional.softmax(logits if mask is None else logits + mask, -1)
            dropped = functional.dropout(weights, dropout) if dropout else weights
            out = dropped @ v if self.scores is None else matmul(dropped, v, self.scores[1])
        out = out.transpose(1, 2).flatten(2)
        out = self._linear(out, self.out_proj.weight, self.out_proj.bias, 3)
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        if not need_weights or weights is None:
            return out, None
        weights = weights.mean(1) if average_attn_weights else weights
        return out, weights if batched else weights.squeeze(0)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, part: int) -> torch.Tensor:
        if self.projections is None:
            return functional.linear(x, weight, bias)
        return linear(x, weight, bias, self.projections[part])

    def _projected(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._qkv_same_embed_dim:
            if query is key and key is value:
                return self._linear(query, self.in_proj_weight, self.in_proj_bias, 0).chunk(3, -1)
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases: tuple[torch.Tensor | None, ...] = (None, None, None)
        if self.in_proj_bias is not None:
            biases = tuple(self.in_proj_bias.chunk(3))
        parts = zip((query, key, value), weights, biases, strict=True)
        return tuple(self._linear(x, weight, bias, place) for place, (x, weight, bias) in enumerate(parts))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(
        self, q: torch.Tensor, k: torch.Tensor, attention: torch.Tensor | None, padding: torch.Tensor | None
    ) -> torch.Tensor | None:
        whole: torch.Tensor | None = None
        if attention is not None:
            whole = _added(attention, q)
            if whole.ndim == 3:
                whole = whole.view(q.shape[0], self.num_heads, *whole.shape[1:])
        if padding is not None:
            ignored = _added(padding, q)[:, None, None, :]
            whole = ignored if whole is None else whole + ignored
        return whole


def _numbers(sizes: Iterable[object]) -> list[int]:
    return [int(str(size)) for size in sizes]


def _added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`mask` as something that is added: booleans say what is left out."""
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(mask, float("-inf"))


def _same(x: torch.Tensor, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[torch.Tensor, list[int]]:
    """What padding by name means: `x`, padded where it is uneven, and the padding that is left to the convolution."""
    if layer.padding == "valid":
        return x, [0] * len(layer.kernel_size)
    both: list[Any] = list(layer._reversed_padding_repeated_twice)
    if all(low == high for low, high in zip(both[::2], both[1::2], strict=True)):
        return x, both[::2][::-1]
    return functional.pad(x, both), [0] * len(layer.kernel_size)
