"""LSTM, GRU and RNN with int8 matrices: stored so and expanded at every call, or multiplied by codes found at every
step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from fewbits.errors import PlanError, SchemeError
from fewbits.formats.scaled import ScaledFormat
from fewbits.models.torch_ops import refusals
from fewbits.models.torch_ops.module import Layer
from fewbits.models.torch_ops.operation import Call, Sort
from fewbits.models.torch_ops.recurrent_ops import has_kernels, int8_gru, int8_lstm
from fewbits.models.weight_codes import channel_codes

LSTM: Final = "lstm"
GRU: Final = "gru"
_CALLS: Final = {
    LSTM: torch.ops.aten.lstm.input,
    GRU: torch.ops.aten.gru.input,
    "rnn_tanh": torch.ops.aten.rnn_tanh.input,
    "rnn_relu": torch.ops.aten.rnn_relu.input,
}
"""Name of an operator → PyTorch's call."""
_CODED: Final = {LSTM: int8_lstm, GRU: int8_gru}
_RESULTS: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Attributes of a recurrent layer; `operator` is ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``. `layers` stand on
    each other; without `biases` there are matrices only."""

    operator: str
    layers: int = 1
    bidirectional: bool = False
    batch_first: bool = False
    biases: bool = True

    @property
    def cells(self) -> int:
        """Layers and directions."""
        return self.layers * (2 if self.bidirectional else 1)


class StoredRecurrent(Layer):
    """The matrices as int8 codes with one scale per row, decoded at every call; products in the type of the result."""

    anywhere = True

    def __init__(self, call: Call, recurrence: Recurrence, parameters: Sequence[torch.Tensor]) -> None:
        """`parameters` in PyTorch's order: matrices and vectors. Raises SchemeError if the call is not `supported`."""
        if reason := self.supported(call):
            raise SchemeError(reason)
        super().__init__(call)
        self.recurrence, self.result = recurrence, call.result
        self.matrices = tuple(one.dim() > 1 for one in parameters)
        _check(call, parameters)
        for place, one in enumerate(parameters):
            if self.matrices[place]:
                codes, scale = _coded(one, call)
                self.keep(f"codes_{place}", codes)
                self.keep(f"scale_{place}", scale.reshape(-1, 1))
            else:
                self.keep(f"bias_{place}", one.to(call.result))

    @staticmethod
    def supported(call: Call) -> str:
        """Why `call` cannot be computed in this way, "" if it can."""
        return refusals.first(
            refusals.sort(call, Sort.RECURRENT),
            "" if call.scheme.is_weight_only else "activations are in codes, too",
            refusals.symmetric_weight(call.scheme.weight),
            refusals.result(call, *_RESULTS),
            refusals.fusion(call),
        )

    @property
    def computes(self) -> str:
        """What is stored, and what is multiplied."""
        name = str(self.result).removeprefix("torch.")
        return f"{name} x s8 -> {name}, decoded"

    def forward(self, x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Sequences `x` and the first `state`: results of all steps and the last state."""
        kept = dict(self.named_buffers())
        parameters = [
            (kept[f"codes_{place}"].float() * kept[f"scale_{place}"]).to(self.result)
            if is_matrix
            else kept[f"bias_{place}"]
            for place, is_matrix in enumerate(self.matrices)
        ]
        how, first = self.recurrence, [one.to(self.result) for one in state]
        found: tuple[torch.Tensor, ...] = _CALLS[how.operator](
            x.to(self.result),
            first if how.operator == LSTM else first[0],
            parameters,
            how.biases,
            how.layers,
            0.0,
            False,
            how.bidirectional,
            how.batch_first,
        )
        return found


class Int8Recurrent(Layer):
    """An LSTM or GRU on the CPU whose matrices are int8 codes, and whose activations are coded anew at every step."""

    def __init__(self, call: Call, recurrence: Recurrence, parameters: Sequence[torch.Tensor]) -> None:
        """See `StoredRecurrent`."""
        if reason := self.supported(call, recurrence, len(parameters)):
            raise SchemeError(reason)
        super().__init__(call)
        _check(call, parameters)
        self.recurrence = recurrence
        self.count = 2 * recurrence.cells
        matrices = [one for one in parameters if one.dim() > 1]
        vectors = [one for one in parameters if one.dim() == 1] or [one.new_zeros(one.shape[0]) for one in matrices]
        for place, (matrix, bias) in enumerate(zip(matrices, vectors, strict=True)):
            codes, scale = _coded(matrix, call)
            self.keep(f"codes_{place}", codes)
            self.keep(f"scale_{place}", scale)
            self.keep(f"bias_{place}", bias.float())

    @staticmethod
    def supported(call: Call, recurrence: Recurrence, parameters: int) -> str:
        """Why `call` cannot be computed in this way, "" if it can."""
        each = 4 if recurrence.biases else 2
        return refusals.first(
            refusals.sort(call, Sort.RECURRENT),
            refusals.device(call, "cpu"),
            "" if recurrence.operator in _CODED else "only LSTM and GRU have an integer kernel",
            "" if parameters == each * recurrence.cells else "a projection has no integer kernel",
            "" if call.scheme.dynamic else "ranges are found at every call",
            refusals.symmetric_weight(call.scheme.weight),
            refusals.unsigned_tensor(call.scheme.activation),
            refusals.result(call, torch.float32),
            refusals.fusion(call),
            "" if has_kernels() else "this PyTorch has no library of integer kernels",
        )

    @property
    def computes(self) -> str:
        """What is multiplied."""
        return f"u8 x s8 -> float32, quantized_{self.recurrence.operator}"

    def forward(self, x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Sequences `x` and the first `state`: results of all steps and the last state."""
        kept, how = dict(self.named_buffers()), self.recurrence
        codes, scales, biases = (
            [kept[f"{what}_{place}"] for place in range(self.count)] for what in ("codes", "scale", "bias")
        )
        found: tuple[torch.Tensor, ...] = _CODED[how.operator](
            x, list(state), codes, scales, biases, how.layers, how.bidirectional, how.batch_first
        )
        return found


def written(call: Call, recurrence: Recurrence, parameters: Sequence[torch.Tensor]) -> Layer:
    """The module for `call`. Raises SchemeError with the reasons if there is none."""
    if call.scheme.is_weight_only:
        return StoredRecurrent(call, recurrence, parameters)
    return Int8Recurrent(call, recurrence, parameters)


def _check(call: Call, parameters: Sequence[torch.Tensor]) -> None:
    if not parameters or tuple(parameters[0].shape) != call.shape:
        found = [tuple(one.shape) for one in parameters[:1]]
        raise PlanError(f"the first matrix of this {call.sort} has shape {call.shape}, what was given has {found}")


def _coded(matrix: torch.Tensor, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of `matrix`, and one scale per row."""
    assert isinstance(call.scheme.weight, ScaledFormat)
    values = matrix.detach().float().cpu().numpy()
    made = channel_codes(values, call.scheme.weight, None, 1.0)
    return torch.from_numpy(made.codes), torch.from_numpy(made.scale)
