"""Packed weights live as long as the weights, and are those of their present values."""

from __future__ import annotations

import gc

import torch

from fewbits.models.torch_ops.packed import Packing
from torch_calls import STATIC, linear


def test_made_once_for_each_tensor() -> None:
    made: list[torch.Tensor] = []
    packing = Packing(lambda weight: made.append(weight) or weight.clone())
    first, second = torch.ones(3), torch.ones(3)
    assert packing(first) is packing(first)
    assert packing(second) is not packing(first)
    assert len(made) == 2


def test_made_again_for_other_values_memory_or_numbers() -> None:
    packing = Packing(lambda weight, factor: weight * factor)
    weight = torch.ones(3)
    assert packing(weight, 2).tolist() == [2, 2, 2]
    weight.fill_(5)
    assert packing(weight, 2).tolist() == [10, 10, 10]
    assert packing(weight, 3).tolist() == [15, 15, 15]
    weight.data = torch.zeros(3)
    assert packing(weight, 3).tolist() == [0, 0, 0]


def test_gone_with_the_weight() -> None:
    packing = Packing(lambda weight: weight.clone())
    weight = torch.ones(3)
    packing(weight)
    assert len(packing) == 1
    del weight
    gc.collect()
    assert len(packing) == 0


def test_modules_made_and_run_in_inference_mode() -> None:
    layer = linear(STATIC)
    wanted = layer.written()(*layer.inputs)
    with torch.inference_mode():
        module = layer.written()
        assert torch.equal(module(*layer.inputs), wanted)
    assert torch.equal(module(*layer.inputs), wanted)
