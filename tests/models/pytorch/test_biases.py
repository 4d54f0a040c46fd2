"""Bias correction in converted modules: the mean of every output channel is what it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fewbits.codes import name_of
from fewbits.data.batches import Batch
from fewbits.errors import PlanError
from fewbits.formats.granularity import Channel
from fewbits.formats.quantize import quantize
from fewbits.formats.scheme import INT8_CHANNEL, INT8_DYNAMIC, INT8_SMOOTHED, INT8_STATIC, Scheme
from fewbits.grouping import group
from fewbits.means import text
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.plan import Choice, Plan, smoothed
from fewbits.smoothing import text as factors_text

FEATURES = 12


class Matrix(nn.Module):
    """A weight with its inputs first; a bias that is a call of its own, one of the product, or none."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.weight, self.bias, self.how = nn.Parameter(torch.randn(FEATURES, 6)), nn.Parameter(torch.randn(6)), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "addmm":
            return torch.addmm(self.bias, x, self.weight)
        return x @ self.weight + self.bias if self.how == "sum" else x @ self.weight


def normed() -> nn.Module:
    made = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
    with torch.no_grad():
        made[1].running_mean.normal_()
        made[1].running_var.uniform_(0.5, 2)
    return made


LAYERS = {
    "convolution": lambda: nn.Conv2d(3, 8, 3),
    "convolution without bias": lambda: nn.Conv2d(3, 8, 3, bias=False),
    "convolution with a batch norm": normed,
    "depthwise": lambda: nn.Conv2d(3, 9, 3, groups=3),
    "one axis": lambda: nn.Conv1d(3, 8, 3),
    "linear": lambda: nn.Linear(FEATURES, 6),
    "linear without bias": lambda: nn.Linear(FEATURES, 6, bias=False),
    "matrix": lambda: Matrix("none"),
    "matrix and a sum": lambda: Matrix("sum"),
    "addmm": lambda: Matrix("addmm"),
}
AXES = {"one axis": (3, 9), "linear": (FEATURES,)}


def inputs(name: str) -> torch.Tensor:
    """As they stand behind a ReLU: only with a mean there is something to correct. In whole codes, so that what is left
    is the weight's."""
    images = "conv" in name or name == "depthwise"
    shape = (3, 9, 9) if images else AXES.get(name, (FEATURES,))
    x = torch.randn(400, *shape, generator=torch.Generator().manual_seed(2)).abs()
    x = (x * 64).round().clip(0, 255)
    x[0].view(-1)[:2] = torch.tensor([0.0, 255.0])
    return x / 255


def layer(name: str) -> nn.Module:
    torch.manual_seed(4)
    return LAYERS[name]().eval()


def opened(name: str) -> TorchModel:
    made = layer(name)
    argument = "x" if isinstance(made, Matrix) else "input"
    return TorchModel.of(made, {argument: inputs(name)})


def read(model: TorchModel) -> str:
    (made,) = (made for made in group(model.graph) if made.is_product)
    return made.operands[0]


def planned(model: TorchModel, scheme: Scheme = INT8_STATIC) -> Plan:
    choices = {made.name: Choice(str(scheme), "test") for made in group(model.graph) if made.is_product}
    return Plan(model.sha256, choices, {read(model): (0.0, 1.0)} if scheme.is_static else {})


def others(values: torch.Tensor) -> tuple[int, ...]:
    """The axes besides that of the channels."""
    return tuple(axis for axis in range(values.ndim) if axis != 1)


def with_means(model: TorchModel, plan: Plan, name: str) -> Plan:
    x = inputs(name)
    return replace(plan, means={read(model): text(x.mean(others(x)).numpy())})


def shift(model: TorchModel, plan: Plan, name: str) -> float:
    """The root mean square, over channels, of how much the means of the outputs differ."""
    with torch.no_grad():
        wanted, got = layer(name)(inputs(name)), model.module(plan)(inputs(name))
    assert isinstance(got, torch.Tensor)
    return float((got - wanted).mean(others(wanted)).square().mean().sqrt())


@pytest.mark.parametrize("name", LAYERS)
def test_means_of_outputs_are_what_they_were(name: str) -> None:
    model = opened(name)
    plan = planned(model)
    assert shift(model, with_means(model, plan, name), name) < 0.3 * shift(model, plan, name)


def test_a_smoothed_product() -> None:
    model, name = opened("linear"), "linear"
    factors = np.geomspace(0.5, 2, FEATURES).astype(np.float32)
    tensor, x = read(model), inputs(name)
    given = factors_text(factors)
    plan = replace(planned(model, INT8_SMOOTHED), smoothing={tensor: given}, ranges={smoothed(tensor): (0.0, 2.0)})
    means = {smoothed(tensor): text((x.numpy() / factors).mean(axis=0))}
    assert shift(model, replace(plan, means=means), name) < 0.5 * shift(model, plan, name)


def test_codes_that_were_searched_for_are_what_is_corrected() -> None:
    """Those of a weight that lost a tenth shift the mean much; corrected, it is where it was."""
    model, name = opened("linear"), "linear"
    weight = model.weight("weight")
    codes = quantize((0.9 * weight).astype(np.float32), replace(INT8_CHANNEL, granularity=Channel(0)))
    codes = replace(codes, format=INT8_CHANNEL)
    plan = replace(planned(model), codes={made: name_of(codes) for made in planned(model).choices})
    model = model.knowing({name_of(codes): codes})
    before = shift(model, plan, name)
    assert before > 0.01
    assert shift(model, with_means(model, plan, name), name) < 0.05 * before


def test_ranges_found_at_every_call_leave_the_bias_as_it_is() -> None:
    """As on the ONNX side: means belong to static codes."""
    model = opened("linear")
    plan = with_means(model, planned(model, INT8_DYNAMIC), "linear")
    (low,) = (one for one in model.module(plan).modules() if isinstance(one, LowPrecision))
    assert torch.equal(low.state_dict()["bias"], layer("linear").state_dict()["bias"])


def test_means_of_another_model_are_refused() -> None:
    model = opened("convolution")
    plan = replace(planned(model), means={read(model): text(np.ones(5))})
    with pytest.raises(PlanError, match=r"means of 5 channels of input, which has 3"):
        model.module(plan)


def test_observed_means_are_those_that_a_run_takes() -> None:
    """The names of a plan's means are those that calibration observes."""
    model = opened("convolution")
    (values,) = model.observe([Batch({"input": inputs("convolution").numpy()})], [read(model)])
    assert values[read(model)].shape[1] == 3
