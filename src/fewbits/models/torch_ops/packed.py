"""What kernels make of weights before they multiply by them, kept as long as the weights live.

A packed weight is a function of a tensor: it is found by the tensor itself, not by its values, and made again when the
tensor was written to or moved. So the modules hold plain buffers only (`state_dict`, `torch.save` and `deepcopy` know
nothing of packing), and a compiled graph, which gets the same tensors, finds the same packed weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

P = TypeVar("P")


class Packing(Generic[P]):
    """`pack` of tensors and some numbers; made at the first call."""

    def __init__(self, pack: Callable[..., P]) -> None:
        self._pack = pack
        self._kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __call__(self, weight: torch.Tensor, *numbers: object, beside: Sequence[torch.Tensor] = ()) -> P:
        """`pack` of `weight`, the tensors `beside` it, and `numbers`; the last one made for `weight` is kept."""
        mark = (*map(_mark, (weight, *beside)), numbers)
        found: tuple[object, P] | None = self._kept.get(weight)  # type: ignore[no-untyped-call]
        if found is not None and found[0] == mark:
            return found[1]
        made = self._pack(weight, *beside, *numbers)
        self._kept[weight] = (mark, made)
        return made

    def __len__(self) -> int:
        return len(self._kept)


def _mark(tensor: torch.Tensor) -> tuple[int, int]:
    """Another number where the values of `tensor` may be others."""
    return (0 if tensor.is_inference() else tensor._version, tensor.data_ptr())
