"""Products in low precision: orientation of scales, sums of the hardware, rotations, and layers of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fewbits import training
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.text import parse
from fewbits.training import hardware
from fewbits.training.accumulation import Accumulation
from fewbits.training.functions import Functions
from fewbits.training.hadamard import rotated
from fewbits.training.lowering import lowering_of
from fewbits.training.orientation import oriented
from fewbits.training.policy import RULES, Policy, Rule
from fewbits.training.products import Product
from fewbits.training.sums import product
from fewbits.training.watch import LayerScale
from training_nets import convolutional, images, transformer

EXACT = "recipe: exact; weight forward: fp32; activation forward: fp32; error backward: fp32"
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (3, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding="same", dilation=2), (2, 4, 9)),
    "even kernel": (lambda: nn.Conv1d(4, 6, 4, padding="same"), (2, 4, 9)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 5)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2, stride=2, bias=False), (2, 4, 7, 7)),
    "one image": (lambda: nn.Conv2d(4, 8, 3), (4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 5)),
    "transposed groups": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5)),
}


# Of torch, for the layer that ours is compared with.
@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("recipe", [EXACT, "mxfp8_rceil", "hbfp8_16", "fp8_mellempudi"])
def test_layers_of_every_kind(name: str, recipe: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make()
    # Recipes that keep first and last layers leave this one alone otherwise.
    known = training.recipe(recipe)
    low = training.lower(layer, training.Recipe(known.name, known.cells, keep=()))
    assert type(low) is not type(layer)
    x = torch.randn(shape)
    found = []
    for module in (layer, low):
        layer.zero_grad()
        own = x.clone().requires_grad_()
        y = module(own)
        y.backward(torch.ones_like(y) * 0.5)
        found.append((y.detach(), own.grad, *(parameter.grad.clone() for parameter in layer.parameters())))
    bound = 1e-5 if recipe == EXACT else 0.2
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= bound * one.norm()


@pytest.mark.parametrize(
    ("format", "summed", "axes", "wanted"),
    [
        ("fp8_e4m3/token", 1, 2, "fp8_e4m3/channel"),
        ("fp8_e4m3/token", 0, 2, "fp8_e4m3/channel@1"),
        ("fp8_e4m3/token", 2, 3, "fp8_e4m3/token"),
        ("mxfp4", 0, 2, "mxfp4/g32@0"),
        ("mxfp4", 1, 4, "mxfp4/g32@1"),
        ("bfp8/tile24x24", 1, 4, "bfp8/tile24x24x1x1"),
        ("fp8_e4m3/tile1x128", 0, 2, "fp8_e4m3/tile128x1"),
        ("fp8_e4m3/tensor", 0, 2, "fp8_e4m3/tensor"),
    ],
)
def test_scales_lie_along_what_is_summed(format: str, summed: int, axes: int, wanted: str) -> None:
    found, expected = oriented(parse(format), summed, axes), parse(wanted)
    x = torch.randn(*(40, 36, 2, 2)[:axes])
    assert torch.equal(fake_quantize(x, found), fake_quantize(x, expected))


def test_both_directions_of_mx_come_from_the_source() -> None:
    """The weight is quantised along its inputs forward, along its outputs backward, both from the float weight."""
    layer = nn.Linear(64, 64, bias=False)
    low = training.lower(layer, training.recipe("mxfp8_rceil"))
    x, error = torch.randn(32, 64, requires_grad=True), torch.randn(32, 64)
    low(x).backward(error)
    weight = layer.weight.detach()
    wanted = fake_quantize(error, "mxfp8_e4m3-rceil") @ fake_quantize(weight, "mxfp8_e4m3-rceil/g32@0")
    torch.testing.assert_close(x.grad, wanted)
    operands = fake_quantize(error, "mxfp8_e4m3-rceil/g32@0"), fake_quantize(x.detach(), "mxfp8_e4m3-rceil/g32@0")
    torch.testing.assert_close(layer.weight.grad, operands[0].t() @ operands[1])


class TestSums:
    """The accumulator of Hopper's FP8 tensor cores (MMA-Sim)."""

    def test_one_chunk_by_hand(self) -> None:
        # 2^0 + 2^-13 fits; a product of 2^-14 is cut off when it is aligned to 2^0, twice as often as you like.
        a = torch.zeros(1, 32)
        a[0, :4] = torch.tensor([1.0, 2.0**-7, 2.0**-7, 2.0**-7])
        b = torch.zeros(32, 1)
        b[:4, 0] = torch.tensor([1.0, 2.0**-6, 2.0**-7, 2.0**-7])
        assert product(a, b, Accumulation.parse("hopper")).item() == 1 + 2.0**-13

    def test_truncation_is_towards_zero(self) -> None:
        a, b = torch.zeros(1, 32), torch.zeros(32, 1)
        a[0, :2], b[:2, 0] = torch.tensor([-1.0, -(2.0**-7)]), torch.tensor([1.0, 2.0**-7])
        assert product(a, b, Accumulation.parse("hopper")).item() == -1

    def test_bias_of_positive_sums(self) -> None:
        """About -7 % at 4096 positive products; promotion every 128 makes it less than a hundredth of that or so."""
        torch.manual_seed(0)
        a = fake_quantize(torch.randn(16, 4096).abs(), "fp8_e4m3")
        b = fake_quantize(torch.randn(4096, 16).abs(), "fp8_e4m3")
        exact = a.double() @ b.double()
        bias = {
            text: float(((product(a, b, Accumulation.parse(text)) - exact) / exact).mean())
            for text in ("hopper", "hopper@128", "fp32@128", "fp32")
        }
        assert -0.09 < bias["hopper"] < -0.05
        assert -3e-3 < bias["hopper@128"] < 0
        assert bias["hopper@128"] < bias["fp32@128"] <= 0
        assert abs(bias["fp32"]) < 1e-6

    def test_a_recipe_can_ask_for_it(self) -> None:
        layer = nn.Linear(256, 8, bias=False)
        known = training.recipe(
            "recipe: audit; weight forward: fp8_e4m3; activation forward: fp8_e4m3; sums: hopper@128"
        )
        x = torch.randn(4, 256)
        out = training.lower(layer, known)(x)
        operands = fake_quantize(x, "fp8_e4m3"), fake_quantize(layer.weight.detach(), "fp8_e4m3").t()
        assert torch.equal(out, product(*operands, Accumulation.parse("hopper@128")))
        assert not torch.equal(out, operands[0] @ operands[1])

    def test_only_the_layers_that_are_named(self) -> None:
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
        known = training.recipe("recipe: audit; weight forward: fp8_e4m3; sums: hopper name:^1$")
        assert training.Recipe.parse(str(known)) == known
        products = lowering_of(training.lower(model, known)).products
        assert [str(products[name].sums) for name in ("0", "1")] == ["fp32", "hopper"]


def test_a_rotation_leaves_products_as_they_are() -> None:
    a, b = torch.randn(40, 8), torch.randn(40, 6)
    torch.testing.assert_close(rotated(a, 16, 0, 7).t() @ rotated(b, 16, 0, 7), a.t() @ b)
    one = torch.zeros(16, 1)
    one[3] = 16
    assert torch.equal(rotated(one, 16, 0, 7).abs(), torch.full((16, 1), 4.0))


class TestOperations:
    """AMP by lists of our own: what a CPU computes in which type is what a GPU does."""

    def run(self, function: Callable[..., torch.Tensor], *args: torch.Tensor, pure: bool = False) -> torch.dtype:
        with Policy(torch.bfloat16, pure=pure):
            return function(*args).dtype

    def test_the_lists_on_the_cpu(self) -> None:
        low, wide = torch.ones(4, 4, dtype=torch.bfloat16), torch.ones(4, 4)
        assert self.run(torch.matmul, wide, wide) is torch.bfloat16
        assert self.run(lambda a, b: a @ b, wide, wide) is torch.bfloat16
        assert self.run(functional.linear, wide, wide) is torch.bfloat16
        # What torch's CPU autocast has no rule for.
        for function in (torch.exp, torch.sum, torch.log):
            assert self.run(function, low) is torch.float32
            with torch.autocast("cpu", torch.bfloat16):
                assert function(low).dtype is torch.bfloat16
        assert self.run(lambda x: torch.softmax(x, -1), low) is torch.float32
        assert self.run(lambda x: x.softmax(-1), low) is torch.float32
        assert self.run(lambda x: functional.layer_norm(x, (4,)), low) is torch.float32
        assert self.run(lambda a, b: torch.cat([a, b]), low, wide) is torch.float32
        assert self.run(lambda a, b: torch.cat([a, b]), low, low) is torch.bfloat16
        assert self.run(torch.relu, low) is torch.bfloat16
        assert self.run(torch.exp, wide, pure=True) is torch.bfloat16

    def test_gradients_pass_through_weights_that_are_cast_once(self) -> None:
        layer = nn.Linear(4, 4)
        low = training.lower(layer, training.recipe("amp_bf16"))
        x = torch.randn(3, 4)
        with torch.no_grad():
            low(x)
        low(x).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype is torch.float32

    def test_every_listed_product_and_loss_is_found(self) -> None:
        for function in (functional.scaled_dot_product_attention, torch.bmm, functional.conv2d, torch.einsum):
            assert RULES[function] is Rule.LOW
        for function in (functional.cross_entropy, functional.rms_norm, torch.cumsum, torch.Tensor.pow):
            assert RULES[function] is Rule.FP32

    def test_it_is_torch_s_autocast_where_the_lists_agree(self) -> None:
        model, (x, _) = convolutional().eval(), images()
        with torch.autocast("cpu", torch.bfloat16):
            wanted = model(x).float()
        assert torch.equal(training.lower(model, training.recipe("amp_bf16")).eval()(x), wanted)


class TestFunctions:
    """Products of two activations."""

    def test_attention_is_lowered_too(self) -> None:
        model = transformer()
        low = training.lower(model, training.recipe("hbfp8_16"))
        low(torch.randn(2, 5, 16))
        names = set(lowering_of(low).products)
        assert {"1.self_attn.scores", "1.self_attn.values", "1.self_attn.in_proj"} <= names

    @pytest.mark.parametrize("masked", ["none", "causal", "bool", "float"])
    def test_attention_as_a_function_is_torch_s(self, masked: str) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(8, 24)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                q, k, v = self.layer(x).chunk(3, -1)
                mask = torch.ones(5, 5, dtype=torch.bool).tril() if masked == "bool" else None
                mask = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)) if masked == "float" else mask
                out = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=masked == "causal")
                return out @ k.mT

        net = Net()
        low = training.lower(net, training.recipe(f"{EXACT}; reach: products"))
        x = torch.randn(2, 5, 8)
        torch.testing.assert_close(low(x), net(x))
        assert [name for name in lowering_of(low).products if name != "layer"] == ["matmul.0", "matmul.1", "matmul.2"]
        assert isinstance(lowering_of(low).mode, Functions)

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_multi_head_attention_is_torch_s(self, batch_first: bool) -> None:
        torch.manual_seed(0)
        own = nn.MultiheadAttention(16, 4, batch_first=batch_first, kdim=12, vdim=20)
        low = training.lower(own, training.recipe(EXACT))
        assert type(low).__name__ == "LoweredLowAttention"
        q, k, v = torch.randn(3, 5, 16), torch.randn(3, 7, 12), torch.randn(3, 7, 20)
        padding = torch.zeros(3, 7, dtype=torch.bool)
        padding[0, 5:] = True
        mask = torch.zeros(5, 7, dtype=torch.bool).index_fill_(1, torch.tensor([2]), True)
        if not batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
            wanted = own(q, k, v, key_padding_mask=padding, attn_mask=mask, **options)
            found = low(q, k, v, key_padding_mask=padding, attn_mask=mask, **options)
            torch.testing.assert_close(found, wanted)


class TestHardware:
    """The casts and products for FP8 tensor cores, as far as a CPU can run them."""

    @pytest.mark.parametrize("recipe", ["fp8_hybrid_current", "fp8_rowwise"])
    def test_it_agrees_with_the_emulation(self, recipe: str) -> None:
        how = hardware.float8_linear(training.recipe(recipe))
        assert how is not None
        layer = nn.Linear(64, 32, bias=False)
        low = training.lower(layer, training.recipe(recipe))
        x = torch.randn(48, 64)
        found = []
        for compute in (lambda own: how(own, layer.weight, None), low):
            layer.zero_grad()
            own = x.clone().requires_grad_()
            compute(own).square().sum().backward()
            found.append((compute(own).detach(), own.grad, layer.weight.grad.clone()))
        for one, other in zip(*found, strict=True):
            # Products come as bfloat16, which moves some codes of the errors, too.
            assert (one - other).norm() <= 0.02 * one.norm()

    @pytest.mark.parametrize("format", ["fp8_e4m3/tensor", "fp8_e5m2/tensor", "fp8_e4m3/token/pow2-rceil"])
    def test_its_casts_are_those_of_the_formats(self, format: str) -> None:
        torch.manual_seed(0)
        x = torch.randn(64, 256) * torch.logspace(-6, 6, 256)
        x[3] = 0
        x[4, :2] = torch.tensor([448.0, 448.0 * (1 + 2.0**-23)])
        known = parse(format)
        operand = hardware.Operand(known.element, "token" in format, "pow2" in format)
        codes, scale = operand(x)
        assert torch.equal(codes.float() * scale, fake_quantize(x, format))

    def test_what_it_does_not_multiply_is_emulated(self) -> None:
        names = {name for name in training.names() if hardware.float8_linear(training.recipe(name)) is not None}
        assert names == {"fp8_hybrid_current", "fp8_rowwise"}
        assert "emulated" in hardware.missing(torch.device("cpu"))


SMALL = (
    "recipe: small; weight forward: {0}; activation forward: {0}; error backward: {1}; error output: {1}; "
    "gradient: {1}; scaler: layer_adaptive"
)


@pytest.mark.parametrize("formats", [("fp16", "fp16 nonsaturate"), ("fp8_e5m2", "fp8_e5m2 stochastic nonsaturate")])
@pytest.mark.parametrize("factor", [2.0**-5, 16.0, 1024.0])
@pytest.mark.parametrize("net", ["convolutional", "transformer"])
def test_a_factor_within_the_casts_is_one_outside(
    net: str, factor: float, formats: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors that are multiplied in the same pass that casts them give the bits of a pass of their own."""
    found, inside = [], []

    def outside(how: Product, factor: float, error: torch.Tensor) -> tuple[float, float]:
        return factor, 1.0

    for way in (Product.split, outside):

        def split(how: Product, factor: float, error: torch.Tensor, way: Any = way) -> tuple[float, float]:
            pair = way(how, factor, error)
            inside.append(pair[1] == factor)
            return pair

        monkeypatch.setattr(Product, "split", split)
        torch.manual_seed(0)
        model, x = (convolutional(), images()[0]) if net == "convolutional" else (transformer(), torch.randn(2, 5, 16))
        low = training.lower(model, training.recipe(SMALL.format(*formats) + "; reach: products"))
        own = lowering_of(low)
        (low(x).square().sum() * 2.0**-12).backward()
        model.zero_grad()
        own.watch.scales = {name: LayerScale(1.0, factor) for name in own.products}
        x = x.clone().requires_grad_()
        (low(x).square().sum() * 2.0**-12).backward()
        found.append([x.grad, *(parameter.grad.clone() for parameter in model.parameters())])
        model.zero_grad()
    assert any(inside)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_no_factor_within_where_bits_could_change() -> None:
    error = torch.ones(2)
    for formats, factor in ((("fp16", "bf16"), 16.0), (("fp32", "fp16"), 16.0), (("fp16", "fp16"), 3.0)):
        low = training.lower(nn.Linear(4, 4), training.recipe(SMALL.format(*formats)))
        assert lowering_of(low).product("").split(factor, error) == (factor, 1.0)


# Of torch's own tracer.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("recipe", ["fp8_mellempudi", "fp8_hybrid_delayed", "hbfp8_16", "amp_bf16"])
@pytest.mark.parametrize("net", [transformer])
def test_compiled_as_one_graph_with_the_same_bits(recipe: str, net: Callable[[], nn.Module]) -> None:
    x, found = torch.randn(2, 5, 16), []
    for compiled in (False, True):
        model = net()
        low = training.lower(model, training.recipe(recipe))
        runs = torch.compile(low, backend="aot_eager", fullgraph=True) if compiled else low
        for _ in range(2):
            model.zero_grad()
            runs(x).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
