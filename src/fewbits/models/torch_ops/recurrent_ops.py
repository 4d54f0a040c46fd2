"""Two operators, `fewbits::int8_lstm` and `fewbits::int8_gru`: PyTorch's dynamic int8 kernels of plain matrices.

PyTorch's own (``aten::quantized_lstm``, ``quantized_gru``) take a packed object per layer and direction, which neither
a compiler nor a file can hold. These take plain codes and find the packed ones (`packed`). What a layer reads has one
range over all steps, its last state one at every step: u8 codes with a zero point, found from the values.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final

import torch

from fewbits.models.torch_ops.operators import define
from fewbits.models.torch_ops.packed import Packing

MATRICES: Final = 2
"""Of each layer and direction: by what it reads, and by its last state."""


def has_kernels() -> bool:
    """Whether PyTorch was built with a library for them."""
    return bool(torch.backends.quantized.engine != "none")


def _packed(*tensors: torch.Tensor) -> object:
    """The parameters of one layer in one direction, from codes, scales and biases of both matrices."""
    codes, scales, biases = tensors[:2], tensors[2:4], tensors[4:6]
    with warnings.catch_warnings():
        # Of quantised tensors, which PyTorch no longer develops; its kernels take nothing else.
        warnings.simplefilter("ignore")
        matrices = [_matrix(*one) for one in zip(codes, scales, biases, strict=True)]
    # Without VNNI pairs of products are summed in 16 bits, so activations have 7 bits there.
    narrow = not torch.cpu._is_vnni_supported()
    return torch.ops.quantized.make_quantized_cell_params_dynamic(*matrices, *biases, narrow)


def _matrix(codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> object:
    zeros = torch.zeros(codes.shape[0], dtype=torch.int64)
    made = torch._make_per_channel_quantized_tensor(codes, scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(made, bias)


_packing = Packing(_packed)


def _cells(
    codes: Sequence[torch.Tensor], scales: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]
) -> list[object]:
    """The packed parameters of all layers and directions."""
    pairs = [slice(place, place + MATRICES) for place in range(0, len(codes), MATRICES)]
    return [_packing(codes[one][0], beside=(codes[one][1], *scales[one], *biases[one])) for one in pairs]


def _lstm(
    x: torch.Tensor,
    state: Sequence[torch.Tensor],
    codes: Sequence[torch.Tensor],
    scales: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    cells = _cells(codes, scales, biases)
    found: tuple[torch.Tensor, ...] = torch.quantized_lstm(
        x, list(state), cells, True, layers, 0.0, False, bidirectional, batch_first, dtype=torch.qint8, use_dynamic=True
    )
    return tuple(one.contiguous() for one in found)


def _gru(
    x: torch.Tensor,
    state: Sequence[torch.Tensor],
    codes: Sequence[torch.Tensor],
    scales: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    cells = _cells(codes, scales, biases)
    found: tuple[torch.Tensor, ...] = torch.quantized_gru(
        x, state[0], cells, True, layers, 0.0, False, bidirectional, batch_first
    )
    return tuple(one.contiguous() for one in found)


def _meta(x: torch.Tensor, state: Sequence[torch.Tensor], *rest: object) -> tuple[torch.Tensor, ...]:
    width = state[0].shape[-1] * (2 if rest[4] else 1)
    return (x.new_empty((*x.shape[:2], width)), *(torch.empty_like(one) for one in state))


_OPERANDS: Final = (
    "Tensor x, Tensor[] state, Tensor[] codes, Tensor[] scales, Tensor[] biases, int layers, bool bidirectional, "
    "bool batch_first"
)
define(f"int8_lstm({_OPERANDS}) -> (Tensor, Tensor, Tensor)", _meta, cpu=_lstm)
define(f"int8_gru({_OPERANDS}) -> (Tensor, Tensor)", _meta, cpu=_gru)

int8_lstm = torch.ops.fewbits.int8_lstm.default
"""Sequences `x` and the first `state` (hidden, cell) through an LSTM whose matrices are `codes` with `scales` for their
rows, in PyTorch's order: results of all steps, and the last state."""
int8_gru = torch.ops.fewbits.int8_gru.default
"""The same for a GRU, whose state is one tensor."""
