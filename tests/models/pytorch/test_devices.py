"""Converted modules on another device. The device ``meta`` stands for a GPU: tensors on it have no values, but calls
that mix it with the CPU fail as they do there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fewbits.errors import ModelError
from fewbits.formats.scheme import BF16, FP32, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.models.pytorch.converted import Converted, artifact, opened
from fewbits.models.pytorch.given import on_device
from fewbits.models.pytorch.model import TorchModel
from fewbits.plan import Choice, Plan
from torch_nets import plan_of

ROWS = torch.arange(12).reshape(3, 4) % 11


class Positioned(nn.Module):
    """Tokens with positions, which are made at every call, on the device that the call names."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Embedding(16, 8)
        self.layer = nn.Linear(8, 6)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        places = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
        found: torch.Tensor = self.layer(self.tokens(rows) + self.places(places))
        return found


@pytest.fixture(scope="module")
def model() -> TorchModel:
    torch.manual_seed(0)
    free = {"rows": frozenset({0, 1})}
    return TorchModel.of(Positioned(), {"rows": ROWS}, free)


def in_scheme(model: TorchModel, scheme: Scheme, *names: str) -> Converted:
    return model.module(Plan(model.sha256, {name: Choice(str(scheme), "test") for name in names}, {}))


@pytest.mark.parametrize("scheme", [FP32, BF16])
def test_floats_go_to_any_device(model: TorchModel, scheme: Scheme) -> None:
    converted = model.module(plan_of(model, scheme))
    assert any(isinstance(one, torch.device) for node in converted.graph.nodes for one in node.kwargs.values())
    wanted = converted(ROWS)
    for there in (copy.deepcopy(converted).to("meta"), opened(artifact(converted).content, "meta")):
        found = there(ROWS.to("meta"))
        assert isinstance(found, torch.Tensor) and isinstance(wanted, torch.Tensor)
        assert (found.device.type, found.shape, found.dtype) == ("meta", wanted.shape, wanted.dtype)
    # And nothing of that has touched the one that stayed.
    assert torch.equal(converted(ROWS), wanted)


def test_what_has_no_kernel_of_a_device_goes_to_any(model: TorchModel) -> None:
    converted = in_scheme(model, INT8_WEIGHT, "tokens")
    assert not converted.bound
    assert converted.to("meta")(ROWS.to("meta")).device.type == "meta"


def test_a_kernel_of_one_device_is_not_moved(model: TorchModel) -> None:
    converted = in_scheme(model, INT8_DYNAMIC, "layer")
    wanted, stored = converted(ROWS), artifact(converted).content
    with pytest.raises(ModelError, match=r"converted for cpu, and layer multiplies by a kernel.*not there on meta"):
        converted.to("meta")
    # It is left whole.
    assert torch.equal(converted(ROWS), wanted)
    with pytest.raises(ModelError, match="convert the original for meta"):
        opened(stored, "meta")
    assert torch.equal(opened(stored, "cpu")(ROWS), wanted)
    assert torch.equal(copy.deepcopy(converted).float()(ROWS), wanted)


def test_a_module_is_copied_to_another_device_and_left_where_it_is() -> None:
    module = Positioned()
    there = on_device(module, "meta")
    assert {one.device.type for one in there.parameters()} == {"meta"}
    assert {one.device.type for one in module.parameters()} == {"cpu"}
    assert on_device(module, "cpu") is module
    without = nn.ReLU()
    assert on_device(without, "meta") is without


def test_a_module_that_cannot_be_copied_is_to_be_moved_before() -> None:
    class Handle(nn.Linear):
        def __deepcopy__(self, memo: object) -> Handle:
            raise TypeError("a handle cannot be copied")

    with pytest.raises(ModelError, match=r"cannot be copied to meta .*handle.*module.to\('meta'\)"):
        on_device(Handle(2, 2), "meta")
