"""What the modules of this room have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from fewbits.errors import PlanError
from fewbits.formats.qtensor import QTensor
from fewbits.models.torch_ops.operation import Call, Range

GivenCodes = QTensor[NDArray[Any]]
"""Codes that a plan names, of shape (depth, columns) for a LINEAR, of the weight's own shape otherwise."""


class Layer(torch.nn.Module, ABC):
    """What takes the place of one call of a graph, for inference: nothing in it is trained.

    All state is in buffers of plain tensors. What kernels make of weights before they multiply by them (packed layouts)
    is made at the first call, kept as long as the buffer lives, and is in no state.
    """

    call: Call
    anywhere: ClassVar[bool] = False
    """Whether it computes on any device, wherever it was made; otherwise its state is laid out for that of the call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    @property
    @abstractmethod
    def computes(self) -> str:
        """What is multiplied by what, and by which kernel: ``u8 x s8 -> fp32, oneDNN``."""

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        shape = f"{tuple(self.call.shape)}, " if self.call.shape else ""
        return f"{shape}{self.call.scheme} [{self.computes}]"

    def keep(self, name: str, value: torch.Tensor | None) -> None:
        """`value` as a buffer on the device of the call; what is None is no buffer, as torch.export (2.13) gives the
        buffers behind one that is None the names of their neighbours."""
        if value is None:
            setattr(self, name, None)
        else:
            self.register_buffer(name, value.detach().to(self.call.device))


class LowPrecision(Layer):
    """A call with one weight, or none, at low precision."""

    @staticmethod
    @abstractmethod
    def supported(call: Call) -> str:
        """Why `call` cannot be computed in this way, ``""`` if it can."""

    @classmethod
    @abstractmethod
    def from_float(
        cls,
        call: Call,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        ranges: Sequence[Range] = (),
        codes: GivenCodes | None = None,
    ) -> Self:
        """The module for `call`.

        Args:
            weight: of shape ``call.shape``, on any device; it is not changed. None for a MATMUL.
            bias: one number per output channel.
            ranges: for a static scheme those of the operands that are activations, in order; then that of the output
                if ``call.result`` is codes. Of a smoothed scheme they are what smoothing leaves, and `weight` has been
                multiplied by the factors.
            codes: what the weight becomes, if the plan says so; otherwise it is rounded to nearest.

        Raises:
            SchemeError: the call is not `supported`; the reason is the message.
            PlanError: a range is missing, or the codes are of another shape.
        """


def present(weight: torch.Tensor | None, call: Call) -> NDArray[np.float32]:
    """`weight` as float32. Raises PlanError if there is none, or it is not of the call's shape."""
    if weight is None or tuple(weight.shape) != call.shape:
        found = None if weight is None else tuple(weight.shape)
        raise PlanError(f"the weight of this {call.sort} has shape {call.shape}, what was given has {found}")
    values: NDArray[np.float32] = weight.detach().float().cpu().numpy()
    return values


def range_at(ranges: Sequence[Range], place: int, call: Call) -> Range:
    """The range at `place`. Raises PlanError if there is none."""
    if len(ranges) <= place:
        raise PlanError(
            f"{call.scheme} on a {call.sort} needs {place + 1} range(s), {len(ranges)} given; calibrate again"
        )
    return ranges[place]
