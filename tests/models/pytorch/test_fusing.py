"""Codes that go from one int8 layer to the next: nothing stands between, and the numbers are those of the plan."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from fewbits.data.batches import Batch
from fewbits.eligibility import module_obstacle
from fewbits.formats.integer import UINT8
from fewbits.formats.numerics.affine import of_range
from fewbits.formats.scheme import BF16, INT8_STATIC
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.models.pytorch.converted import Converted
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.torch_ops.encoding import Decode, Encode
from fewbits.models.torch_ops.onednn_layers import Int8Conv, Int8Linear
from fewbits.models.torch_ops.operation import Activation, Added
from fewbits.plan import Choice, Plan
from torch_nets import Mobile, Residual, encoder

Int8 = Int8Conv | Int8Linear


class Stages(nn.Module):
    """Two stages of residual blocks, the first block of each with a convolution beside it, as in ResNets."""

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Block(8, 8, act), Block(8, 12, act), Block(12, 12, act)])
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.stem(x)), 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, wide: int, out: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(wide, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(out), act()
        self.beside = nn.Conv2d(wide, out, 1) if wide != out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.two(self.act(self.one(x)))) + self.beside(x))


NETS = {
    "residual": (Residual, (4, 3, 8, 8)),
    "stages": (Stages, (4, 3, 8, 8)),
    "stages, SiLU": (lambda: Stages(nn.SiLU), (4, 3, 8, 8)),
    "mobile": (Mobile, (4, 3, 16, 16)),
    "encoder": (lambda: encoder(2, 32), (4, 5, 32)),
}


class Simulated(fx.Interpreter):
    """A program in float64 whose int8 groups round what they read: activations to their ranges, weights by channel."""

    def __init__(self, model: TorchModel, plan: Plan) -> None:
        super().__init__(model.program.module.double())
        self.groups = {model.described.calls[one.name]: one for one in group(model.graph) if one.name in plan.low}
        self.plan, self.graph_of = plan, model.graph

    def run_node(self, n: fx.Node) -> object:
        if n not in self.groups:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        names = self.graph_of.node[self.groups[n].name].inputs
        if self.groups[n].kind is Kind.ADD:
            fused = next((one for one in n.all_input_nodes if self.is_product(one)), None)
            made = [
                value if node is fused else rounded(value, self.plan.ranges[name])
                for node, value, name in zip(n.args, args, names, strict=True)
            ]
            return n.target(*made)
        weight = args[1]
        norm = next((user for user in n.users if "batch_norm" in str(user.target)), None)
        factor = torch.ones(weight.shape[0], dtype=torch.float64)
        if norm is not None:
            scale, variance = (self.fetch_attr(str(norm.args[place].target)) for place in (1, 4))
            factor = scale / torch.sqrt(variance + norm.args[6])
        shaped = factor.reshape(-1, *[1] * (weight.ndim - 1))
        folded = weight * shaped
        step = folded.abs().amax(tuple(range(1, weight.ndim)), keepdim=True) / 127
        codes = (folded / step).round() * step / shaped
        return n.target(rounded(args[0], self.plan.ranges[names[0]]), codes, *args[2:], **kwargs)

    def is_product(self, node: fx.Node) -> bool:
        """Whether `node` is what a product in codes gives to one reader: its sum is not rounded between."""
        source = node.args[0] if "getitem" in str(node.target) or "batch_norm" in str(node.target) else node
        if source is not node:
            return isinstance(source, fx.Node) and len(node.users) == 1 and self.is_product(source)
        return source in self.groups and self.groups[source].weight != "" and len(node.users) == 1


def rounded(value: torch.Tensor, ends: tuple[float, float]) -> torch.Tensor:
    made = of_range(*ends, UINT8)
    scale, zero = float(made.scale), int(made.zero_point)
    return (torch.clip((value / scale).round() + zero, 0, 255) - zero) * scale


def planned(model: TorchModel, x: torch.Tensor, *, sums: bool) -> Plan:
    operands = sorted({name for made in group(model.graph) for name in made.operands})
    (values,) = model.observe([Batch({model.graph.inputs[0]: x.numpy()})], operands)
    ranges = {name: (min(0.0, float(one.min())), max(0.0, float(one.max()))) for name, one in values.items()}
    chosen = {
        made.name: Choice(str(INT8_STATIC), "")
        for made in group(model.graph)
        if (made.weight or sums) and (made.weight or made.kind is Kind.ADD)
        if not module_obstacle(model.graph, made, INT8_STATIC)
    }
    return Plan(model.sha256, chosen, ranges)


def modules(converted: Converted, kind: type[nn.Module]) -> list[nn.Module]:
    return [one for one in converted.modules() if isinstance(one, kind)]


def operators(converted: Converted) -> Counter[str]:
    called = [str(node.target) for node in converted.graph.nodes if node.op == "call_function"]
    return Counter(name.split(".")[1] for name in called if name.startswith("aten."))


@pytest.mark.parametrize(("name", "sums"), [(name, sums) for name in NETS for sums in (False, True)])
def test_the_numbers_are_those_of_the_plan(name: str, sums: bool) -> None:
    torch.manual_seed(3)
    build, shape = NETS[name]
    module, x = build().eval(), torch.randn(shape)
    model = TorchModel.of(module, {next(iter(NAMES[name])): x})
    plan = planned(model, x, sums=sums)
    converted = model.module(plan)
    exact = module.double()(x.double()).detach()
    (simulated,) = Simulated(model, plan).run(x.double())
    error = float((simulated - exact).norm() / exact.norm())
    found = converted(x)
    if sums and "SiLU" in name:
        # No kernel has SiLU behind a sum: it adds floats, which the plan would have rounded.
        assert float((found - exact).norm() / exact.norm()) <= 1.2 * error
        return
    # A value at the border of two codes may go the other way in float32.
    assert 0 < float((found - simulated).norm() / exact.norm()) <= max(0.25 * error, 0.002)


NAMES = {name: ("src",) if name == "encoder" else ("x",) for name in NETS}


def test_no_floats_stand_between_the_convolutions_of_a_residual_net() -> None:
    torch.manual_seed(0)
    module, x = Stages().eval(), torch.randn(2, 3, 8, 8)
    model = TorchModel.of(module, {"x": x})
    converted = model.module(planned(model, x, sums=True))
    # The input, what is pooled, and what the classifier reads.
    assert len(modules(converted, Encode)) == 3
    # The last sum is read as floats; what it adds comes as codes.
    assert len(modules(converted, Decode)) == 1
    calls = [one.call for one in modules(converted, Int8Conv)]
    assert [call.added for call in calls].count(Added.CODES) == 2
    assert [call.added for call in calls].count(Added.FLOATS) == 1
    assert not operators(converted) & Counter({"relu": 9, "add": 9, "_native_batch_norm_legit_no_training": 9})
    assert sum(call.gives_codes for call in calls) == len(calls) - 2


def test_sums_in_floats_are_added_in_floats_and_encoded_once() -> None:
    torch.manual_seed(0)
    module, x = Stages().eval(), torch.randn(2, 3, 8, 8)
    model = TorchModel.of(module, {"x": x})
    converted = model.module(planned(model, x, sums=False))
    assert not modules(converted, Decode)
    calls = [one.call for one in modules(converted, Int8Conv)]
    assert [call.added for call in calls].count(Added.FLOATS) == 3
    # Input, pool, classifier, and two sums; that before the convolution beside a block serves two readers.
    assert len(modules(converted, Encode)) == 5


def test_layers_of_an_encoder_share_codes_and_take_gelu_and_sums_along() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, activation="gelu", batch_first=True)
    module = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    x = torch.randn(2, 5, 32)
    model = TorchModel.of(module, {"src": x})
    converted = model.module(planned(model, x, sums=True))
    calls = {name: one.call for name, one in converted.named_modules() if isinstance(one, Int8Linear)}
    first = next(call for name, call in calls.items() if name.endswith("linear1"))
    second = next(call for name, call in calls.items() if name.endswith("linear2"))
    assert first.activation is Activation.GELU and first.gives_codes
    assert second.added is Added.FLOATS
    assert "gelu" not in operators(converted)
    assert torch.allclose(converted(x), module(x), atol=0.1)


class Odd(nn.Module):
    """Everything that may not be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        twice = self.a(x) + self.a(x).mean()
        doubled = self.b(twice)
        doubled = doubled + doubled
        given = functional.relu(self.c(doubled))
        wide = self.d(given) + x[:, :1]
        return wide, given


def test_what_must_not_be_fused_stays_as_it_was() -> None:
    torch.manual_seed(0)
    module, x = Odd().eval(), torch.randn(2, 4, 5, 5)
    model = TorchModel.of(module, {"x": x})
    converted = model.module(planned(model, x, sums=True))
    assert not any(one.call.adds for one in modules(converted, Int8Conv))
    # What is given back is given as floats.
    found, expected = converted(x), [one.detach() for one in module(x)]
    assert all(one.dtype == torch.float32 for one in found)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.05


def test_codes_move_through_reshapes_and_not_between_different_ranges() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Unflatten(1, (3, 4)), nn.Linear(4, 4)).eval()
    x = torch.randn(6, 8)
    model = TorchModel.of(module, {"input": x})
    plan = planned(model, x, sums=True)
    converted = model.module(plan)
    assert len(modules(converted, Encode)) == 1
    assert {node.meta["val"].dtype for node in converted.graph.nodes if node.op == "call_module"} == {
        torch.uint8,
        torch.float32,
    }
    branches = Branches().eval()
    model = TorchModel.of(branches, {"x": x})
    plan = planned(model, x, sums=True)
    read = next(made.operands[0] for made in group(model.graph) if made.name == "left")
    moved = next(made.operands[0] for made in group(model.graph) if made.name == "right")
    assert read != moved
    assert len(modules(model.module(plan), Encode)) == 1
    apart = Plan(plan.model_sha256, plan.choices, {**plan.ranges, moved: (-9.0, 9.0)})
    assert len(modules(model.module(apart), Encode)) == 3


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.left(y) * self.right(y.reshape(-1, 8))


def test_codes_between_small_floats_come_from_small_floats() -> None:
    torch.manual_seed(0)
    module, x = encoder(1, 32), torch.randn(3, 5, 32)
    model = TorchModel.of(module, {"src": x})
    plan = planned(model, x, sums=False)
    low = {
        made.name: Choice(str(BF16), "")
        for made in group(model.graph)
        if made.name not in plan.choices and not module_obstacle(model.graph, made, BF16)
    }
    converted = model.module(Plan(model.sha256, {**plan.choices, **low}, plan.ranges))
    assert torch.bfloat16 in {one.call.result for one in modules(converted, Int8Linear)}
    expected = module.eval()(x).detach()
    assert float((converted(x) - expected).norm() / expected.norm()) < 0.03


def test_a_sum_behind_no_convolution_is_refused_with_the_reason() -> None:
    model = TorchModel.of(encoder(1, 32), {"src": torch.randn(3, 5, 32)})
    sums = [made for made in group(model.graph) if made.kind is Kind.ADD]
    assert sums and all("behind a convolution" in module_obstacle(model.graph, made, INT8_STATIC) for made in sums)


def test_copies_that_dropout_leaves_are_gone() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    x = torch.randn(3, 4)
    model = TorchModel.of(module, {"input": x})
    targets = [str(node.target) for node in model.program.graph.nodes if node.op == "call_function"]
    # The last one is given back: what is the caller's is nobody else's.
    assert sum("clone" in one for one in targets) == 1
    assert np.array_equal(model.module(Plan(model.sha256, {}, {}))(x).numpy(), module(x).detach().numpy())
