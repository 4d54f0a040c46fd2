"""LSTM, GRU and RNN of PyTorch: one group each, in floats, with stored int8 matrices, and in codes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fewbits
from fewbits.attribution import attribute
from fewbits.eligibility import module_obstacle
from fewbits.errors import PlanError
from fewbits.formats.integer import UINT8
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import BF16, FP16, INT4_BLOCKS, INT8_DYNAMIC, INT8_STATIC, INT8_WEIGHT, TF32, Scheme
from fewbits.graph import Kind
from fewbits.grouping import group, matrices
from fewbits.models.pytorch.converted import artifact, opened
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.torch_ops.activation_codes import Ends, dynamic_scale, encode
from fewbits.plan import Choice, Plan
from fewbits.targets.pytorch import Torch
from torch_nets import plan_of

WIDTH, HIDDEN = 16, 32
X = torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(1))
LAYERS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "two layers, both directions": (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "gru": (nn.GRU, {"num_layers": 2}),
    "gru without biases": (nn.GRU, {"bias": False, "bidirectional": True}),
    "rnn": (nn.RNN, {}),
    "rnn with relu": (nn.RNN, {"nonlinearity": "relu"}),
    "projected": (nn.LSTM, {"proj_size": 8}),
}
BOUNDS = {BF16: 0.02, FP16: 0.002, INT8_WEIGHT: 0.02, INT8_DYNAMIC: 0.03}
"""The error that a scheme may leave of the results."""


class Net(nn.Module):
    """A recurrent layer with a classifier; gives its last state, too."""

    def __init__(self, name: str) -> None:
        super().__init__()
        kind, options = LAYERS[name]
        self.rnn = kind(WIDTH, HIDDEN, batch_first=True, **options)
        wide = options.get("proj_size", HIDDEN) * (2 if options.get("bidirectional") else 1)
        self.out = nn.Linear(wide, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, state = self.rnn(x)
        return self.out(values[:, -1]), state if isinstance(state, torch.Tensor) else state[1]


def net(name: str) -> tuple[Net, TorchModel]:
    torch.manual_seed(0)
    module = Net(name).eval().requires_grad_(False)
    return module, TorchModel.of(module, {"x": X})


def only(model: TorchModel, scheme: Scheme) -> Plan:
    return Plan(model.sha256, {"rnn": Choice(str(scheme), "all")}, {})


def away(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).norm() / expected.norm())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's own, of its float kernel
def test_every_scheme_on_offer_computes_the_same_function(name: str) -> None:
    module, model = net(name)
    expected = module(X)
    (made,) = [one for one in group(model.graph) if one.name == "rnn"]
    offered = [scheme for scheme in BOUNDS if not module_obstacle(model.graph, made, scheme)]
    assert {BF16, FP16, INT8_WEIGHT} <= set(offered)
    for scheme in offered:
        converted = model.module(only(model, scheme))
        found = converted(X)
        assert all(away(one, other) < BOUNDS[scheme] for one, other in zip(expected, found, strict=True)), scheme
        assert not torch.equal(found[0], expected[0]), scheme
        stored = opened(artifact(converted).content)
        for again in (stored(X), copy.deepcopy(converted)(X)):
            assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True)), scheme


def test_one_group_has_all_layers_and_directions() -> None:
    _, model = net("two layers, both directions")
    made = group(model.graph)[0]
    assert (made.name, made.kind, made.operands[0]) == ("rnn", Kind.LSTM, "x")
    assert len(made.operands) == 3  # the first states, too
    assert len(matrices(model.graph, made)) == 8


def test_stored_matrices_are_those_of_the_format_bit_for_bit() -> None:
    module, model = net("gru")
    found = model.module(only(model, INT8_WEIGHT))(X)
    rounded = copy.deepcopy(module)
    assert isinstance(INT8_WEIGHT.weight, ScaledFormat)
    with torch.no_grad():
        for name, weight in rounded.rnn.named_parameters():
            if name.startswith("weight"):
                weight.copy_(torch.from_numpy(fake_quantize(weight.numpy(), INT8_WEIGHT.weight)))
        expected = rounded(X)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_step_in_codes_is_what_the_formats_say() -> None:
    """From a first state of zeros one step of an LSTM is a product with x alone (Hochreiter & Schmidhuber 1997)."""
    module, model = net("lstm")
    x = X[:, :1]
    found = model.module(only(model, INT8_DYNAMIC))(x)[1][0]
    ends = Ends.of(UINT8)
    scale, zero = dynamic_scale(x, ends, per_row=False)
    codes = encode(x, scale, zero, ends, torch.uint8)
    assert isinstance(INT8_WEIGHT.weight, ScaledFormat)
    weight = torch.from_numpy(fake_quantize(module.rnn.weight_ih_l0.detach().numpy(), INT8_WEIGHT.weight))
    gates = (codes.float() - zero) * scale @ weight.T + module.rnn.bias_ih_l0 + module.rnn.bias_hh_l0
    first, _, new, _ = gates[:, 0].detach().chunk(4, dim=-1)
    # Of CPUs without VNNI activations have 7 bits.
    assert away(first.sigmoid() * new.tanh(), found) < (1e-5 if torch.cpu._is_vnni_supported() else 0.02)


def test_ranges_are_found_at_every_call() -> None:
    module, model = net("lstm")
    converted = model.module(only(model, INT8_DYNAMIC))
    converted(X)
    # Within the range of the first call nine of these would be one: most of them would be cut off.
    assert away(module(9 * X)[0], converted(9 * X)[0]) < 0.1 < away(module(9 * X)[0], module(X)[0])


def test_a_compiler_takes_them_whole() -> None:
    _, model = net("gru without biases")
    converted = model.module(only(model, INT8_DYNAMIC))
    with torch.no_grad():
        compiled = torch.compile(converted.graph_module, fullgraph=True, backend="aot_eager", dynamic=False)
        assert all(torch.equal(one, other) for one, other in zip(compiled(X), converted(X), strict=True))


def test_matrices_take_a_quarter_of_the_bytes() -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(256, 256, batch_first=True)
    model = TorchModel.of(layer, {"input": torch.randn(1, 3, 256)})
    assert model.converted(plan_of(model, INT8_WEIGHT)).size < 0.3 * model.original().size


@pytest.mark.parametrize(
    ("name", "scheme", "reason"),
    [
        ("lstm", INT8_STATIC, "alone or with ranges found at every call"),
        ("lstm", INT4_BLOCKS, "int8 matrices of one scale per row"),
        ("lstm", TF32, "no switch for tf32"),
        ("lstm", Scheme.parse("w:int8r/channel a:int8r/token dynamic"), "unsigned codes of 8 bits"),
        ("rnn", INT8_DYNAMIC, "only LSTM and GRU"),
        ("projected", INT8_DYNAMIC, "projects its state"),
    ],
)
def test_what_has_no_kernel_is_refused_with_the_reason(name: str, scheme: Scheme, reason: str) -> None:
    _, model = net(name)
    with pytest.raises(PlanError, match=reason):
        model.module(only(model, scheme))


def test_what_ran_is_read_back() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
            self.second = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.second(self.first(x)[0])[0]
            return found

    model = TorchModel.of(Two(), {"x": X})
    plan = Plan(model.sha256, {"first": Choice(str(BF16), ""), "second": Choice(str(INT8_DYNAMIC), "")}, {})
    shares = attribute(
        model.graph, group(model.graph), Torch.of(1).executed(model.converted(plan), {"x": X.numpy()}, 2)
    )
    assert shares["first"].kernel.startswith("rnn ") and shares["first"].precision == "bf16"
    assert (shares["second"].kernel, shares["second"].precision) == ("aten::quantized_lstm", "int8")


def test_a_plan_carries_over_to_the_onnx_form_and_back() -> None:
    torch.manual_seed(0)
    data = [np.asarray(X.numpy()) + shift for shift in (0.0, 0.1)]
    twins = fewbits.export_onnx(Net("two layers, both directions"), data)
    plan = Plan(twins.module.sha256, {"rnn": Choice(str(INT8_WEIGHT), "all")}, {})
    carried = fewbits.plan_for_onnx(plan, twins)
    # ONNX has a layer in both directions per node.
    assert [choice.scheme for choice in carried.plan.choices.values()] == [str(INT8_WEIGHT)] * 2
    assert not carried.left
    assert fewbits.plan_for_module(carried.plan, twins).plan.choices["rnn"].scheme == str(INT8_WEIGHT)
