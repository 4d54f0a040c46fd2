"""The two lines: a lowered model and its step."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from fewbits import training
from fewbits.errors import DataError, DivergenceError, ModelError, RecipeError, TargetError
from fewbits.formats.quantize import fake_quantize
from fewbits.training.lowering import lowering_of
from fewbits.training.step import Outcome, Step
from fewbits.training.table import Place
from training_nets import convolutional, images, losses, transformer

ADAPTIVE = (
    "recipe: adaptive; weight forward: fp16; activation forward: fp16; error backward: fp16 nonsaturate; "
    "error output: fp16 nonsaturate; scaler: layer_adaptive period=2"
)
FP16_SCALED = "recipe: emulated; weight forward: fp16; error backward: fp16 nonsaturate; scaler: dynamic"


def prepared(recipe: str, model: nn.Module | None = None, **options: int) -> tuple[nn.Module, nn.Module, Step]:
    """The user's model, the lowered one and its step."""
    model = convolutional() if model is None else model
    # MoQ would warn that twelve steps are too few.
    planned = 0 if recipe == "moq" else 12
    low, step = training.prepare(model, torch.optim.AdamW(model.parameters(), 1e-2), recipe, planned=planned, **options)
    return model, low, step


@pytest.mark.parametrize("recipe", training.names())
def test_every_recipe_trains(recipe: str) -> None:
    model, low, step = prepared(recipe)
    if recipe == "binary_connect":
        step.optimizers[0].param_groups[0]["lr"] = 1e-3
    found = losses(low, step, 12)
    assert found[-1] < found[0]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("recipe", [*training.names(), ADAPTIVE])
@pytest.mark.parametrize("at", [5])
def test_a_resumed_run_has_bit_identical_weights(recipe: str, at: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole, low, step = prepared(recipe)
    torch.manual_seed(4)
    losses(low, step, 12)

    first, low, step = prepared(recipe)
    torch.manual_seed(4)
    losses(low, step, at)
    file = tmp_path / "checkpoint.pt"
    torch.save([first.state_dict(), step.optimizers[0].state_dict(), step.state_dict(), torch.get_rng_state()], file)

    weights, optimizer, state, random = torch.load(file, weights_only=True)
    resumed, low, step = prepared(recipe)
    resumed.load_state_dict(weights)
    step.optimizers[0].load_state_dict(optimizer)
    step.load_state_dict(state)
    torch.set_rng_state(random)
    losses(low, step, 12, at)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["amp_fp16", "fp8_hybrid_current", "bf16_pure"])
def test_16_bit_parameters_train_and_resume(dtype: torch.dtype, recipe: str) -> None:
    """torch's GradScaler refuses them: "Attempting to unscale FP16 gradients"."""
    start = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)).to(dtype)
    x = torch.randn(64, 16)
    y = x[:, :10].argmax(1)

    def run(model: nn.Module, at: int | None) -> float:
        _, low, step = prepared(recipe, model)
        for index in range(16):
            if index == at:
                weights, optimizer = copy.deepcopy(model.state_dict()), copy.deepcopy(step.optimizers[0].state_dict())
                state = step.state_dict()
                _, low, step = prepared(recipe, model)
                model.load_state_dict(weights)
                step.optimizers[0].load_state_dict(optimizer)
                step.load_state_dict(state)
            loss = nn.functional.cross_entropy(low(x.to(dtype)).float(), y)
            step(loss)
        assert all(parameter.dtype is dtype for parameter in model.parameters())
        return float(loss.detach())

    whole, resumed = copy.deepcopy(start), copy.deepcopy(start)
    assert run(whole, None) < 2.0
    run(resumed, 7)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_updates_below_half_a_step_of_fp16_are_not_lost() -> None:
    """Weights of 1 with steps of 2^-13: fp16 alone would stay at 1 for ever."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float16)
    nn.init.ones_(layer.weight)
    low, step = training.prepare(layer, torch.optim.SGD(layer.parameters(), 2.0**-13), "amp_fp16")
    for _ in range(8):
        step(low(torch.ones(1, 1, dtype=torch.float16)).sum())
    assert layer.weight.item() == 1 - 2.0**-10


def test_the_user_s_model_computes_as_before() -> None:
    model = convolutional().eval()
    x, _ = images()
    before, modules = model(x), {name: type(module) for name, module in model.named_modules()}
    low, _ = training.prepare(model, torch.optim.SGD(model.parameters(), 0.1), "fp8_hybrid_current")
    low.eval()
    assert torch.equal(model(x), before)
    assert not torch.equal(low(x), before)
    assert {name: type(module) for name, module in model.named_modules()} == modules
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_parameters_and_buffers_are_shared() -> None:
    model, low, step = prepared("fp8_hybrid_current")
    assert isinstance(low, nn.Sequential)
    assert list(model.state_dict()) == list(low.state_dict())
    for one, other in zip(model.parameters(), low.parameters(), strict=True):
        assert one is other
    losses(low, step, 1)
    assert model[1].num_batches_tracked.item() == 1


def test_the_operands_are_what_the_formats_say() -> None:
    layer = nn.Linear(32, 16)
    low = training.lower(layer, training.recipe("fp8_hybrid_current"))
    x, error = torch.randn(8, 32, requires_grad=True), torch.randn(8, 16)
    y = low(x)
    y.backward(error)
    cast = {key: fake_quantize(value.detach(), format) for key, (value, format) in {
        "x": (x, "fp8_e4m3/tensor"), "w": (layer.weight, "fp8_e4m3/tensor"), "e": (error, "fp8_e5m2/tensor"),
    }.items()}  # fmt: skip
    assert torch.equal(y, cast["x"] @ cast["w"].t() + layer.bias)
    assert torch.equal(x.grad, cast["e"] @ cast["w"])
    assert torch.equal(layer.weight.grad, cast["e"].t() @ cast["x"])
    assert torch.equal(layer.bias.grad, error.sum(0))


def test_gradients_accumulate() -> None:
    """Two halves are one whole batch, to the last bits of the sums."""
    x, y = torch.randn(32, 16), torch.randint(0, 10, (32,))
    models = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = nn.Linear(16, 10)
        low, step = training.prepare(model, torch.optim.SGD(model.parameters(), 0.1), "fp32", clip_norm=0.01)
        for index in range(parts):
            half = slice(index * 32 // parts, (index + 1) * 32 // parts)
            status = step(nn.functional.cross_entropy(low(x[half]), y[half]) / parts, update=index == parts - 1)
            assert status.outcome is (Outcome.STEPPED if index == parts - 1 else Outcome.ACCUMULATED)
        models.append(model)
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_clipping_is_torch_s() -> None:
    x, y = images()
    one, other = convolutional(), convolutional()
    low, step = training.prepare(one, torch.optim.SGD(one.parameters(), 0.1), "fp32", clip_norm=0.1)
    torch.manual_seed(2)
    status = step(nn.functional.cross_entropy(low(x), y))
    torch.manual_seed(2)
    nn.functional.cross_entropy(other(x), y).backward()
    norm = nn.utils.clip_grad_norm_(other.parameters(), 0.1)
    torch.optim.SGD(other.parameters(), 0.1).step()
    assert status.norm == pytest.approx(float(norm))
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_several_optimizers_groups_and_frozen_layers() -> None:
    model = convolutional()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    first = torch.optim.SGD([{"params": model[3].parameters()}, {"params": model[7].parameters(), "lr": 0.0}], 0.1)
    second = torch.optim.Adam(model[9].parameters(), 0.01)
    weights = [model[place].weight.clone() for place in (3, 7, 9)]
    low, step = training.prepare(model, [first, second], "fp8_mellempudi")
    losses(low, step, 2)
    assert torch.equal(model[0].weight, before)
    now = [model[place].weight for place in (3, 7, 9)]
    assert [bool((a != b).any()) for a, b in zip(weights, now, strict=True)][::2] == [True, True]
    # Without a learning rate only the rounding of the fp16 master is left.
    assert (weights[1] - now[1]).abs().max() <= 2.0**-10 * weights[1].abs().max()


def test_sparse_gradients() -> None:
    table = nn.Embedding(20, 4, sparse=True)
    reference = copy.deepcopy(table)
    low, step = training.prepare(table, torch.optim.SparseAdam(table.parameters(), 0.1), "amp_fp16")
    words = torch.tensor([1, 1, 3])
    assert step(low(words).square().sum()).stepped
    optimizer = torch.optim.SparseAdam(reference.parameters(), 0.1)
    reference(words).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(table.weight, reference.weight)


class TestSkipped:
    """A step with a gradient that is not finite changes nothing, and says who was first."""

    def overflowing(self, recipe: str) -> tuple[nn.Module, nn.Module, Step]:
        model = nn.Sequential()
        torch.manual_seed(0)
        for name in ("one", "two", "three"):
            model.add_module(name, nn.Linear(8, 8))
        return model, *training.prepare(model, torch.optim.SGD(model.parameters(), 0.1), recipe)

    def test_backward_overflow_is_named(self) -> None:
        model, low, step = self.overflowing(FP16_SCALED)
        before = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            # What reaches `one` is 2^16 times as large as what reaches `two`: beyond fp16 at the scale of the loss.
            model.two.weight.mul_(0).add_(torch.eye(8) * 4096)
        before = copy.deepcopy(model.state_dict())
        status = step(low(torch.randn(4, 8)).mean())
        assert status.outcome is Outcome.SKIPPED
        assert status.scale == 65536
        assert step.scale == 32768
        assert status.culprit is not None
        assert (status.culprit.module, status.culprit.direction) == ("one", "backward")
        assert "one" in str(status)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_forward_overflow_is_named(self) -> None:
        model, low, step = self.overflowing("recipe: a; activation output: fp16 nonsaturate; scaler: dynamic")
        assert step(low(torch.randn(4, 8)).mean()).stepped
        with torch.no_grad():
            model.two.weight.fill_(1e5)
        status = step(low(torch.ones(4, 8)).mean())
        assert not status.stepped
        assert (status.culprit.module, status.culprit.tensor, status.culprit.direction) == ("two", "output", "forward")

    def test_a_loss_is_named(self) -> None:
        _, low, step = self.overflowing("fp32")
        assert step(low(torch.randn(4, 8)).mean()).stepped
        status = step((low(torch.zeros(4, 8)) * 0).sqrt().mean())
        assert not status.stepped
        assert status.culprit.module == "the loss"

    def test_looking_for_it_leaves_no_trace(self) -> None:
        """Random numbers, clock and buffers after a skipped step are those without the search."""
        model, low, step = prepared("fp8_hybrid_delayed")
        losses(low, step, 1)
        random, clock = torch.get_rng_state(), step.state_dict()["clock"]
        x, y = images()
        loss = nn.functional.cross_entropy(low(x), y)
        after = torch.get_rng_state()
        buffers = copy.deepcopy(dict(model.named_buffers()))
        histories = step.state_dict()["histories"]
        assert not step(loss * float("inf")).stepped
        assert torch.equal(torch.get_rng_state(), after)
        assert not torch.equal(random, after)
        assert step.state_dict()["clock"] == clock + 1
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
        assert all(
            torch.equal(one, histories[name])
            for name, one in step.state_dict()["histories"].items()
            if "error" not in name
        )

    def test_no_scale_helps(self) -> None:
        _, low, step = self.overflowing("recipe: a; error backward: fp16; scaler: dynamic initial=1 floor=1 patience=3")
        step(low(torch.randn(4, 8)).mean())
        for _ in range(2):
            step(low(torch.randn(4, 8)).mean() * float("inf"))
        loss = low(torch.randn(4, 8)).mean() * float("inf")
        with pytest.raises(DivergenceError, match="floor"):
            step(loss)


class TestBadInput:
    def test_a_loss_is_one_number_with_a_graph(self) -> None:
        _, low, step = prepared("fp32")
        x, _ = images()
        with pytest.raises(DataError, match=r"not \(64, 10\)"):
            step(low(x))
        with pytest.raises(DataError, match="no graph"):
            step(torch.ones(()))

    def test_a_first_loss_that_is_not_finite(self) -> None:
        model, low, step = prepared("fp32")
        with torch.no_grad():
            model[7].weight[0, 0] = float("nan")
        x, y = images()
        with pytest.raises(DataError, match=r"first step is nan.*output of 7 \(forward\)"):
            step(nn.functional.cross_entropy(low(x), y))

    def test_nothing_to_train(self) -> None:
        model = convolutional().requires_grad_(False)
        with pytest.raises(ModelError, match="wants gradients"):
            training.lower(model, training.recipe("fp32"))
        with pytest.raises(ModelError, match="wants gradients"):
            training.lower(nn.ReLU(), training.recipe("fp32"))

    def test_parameters_on_several_devices(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
        with pytest.raises(ModelError, match=r"0.weight on cpu, 1.weight on meta"):
            training.lower(model, training.recipe("fp32"))

    def test_a_device_that_lacks_the_products(self) -> None:
        with pytest.raises(TargetError, match=r"cpu has no FP8 products.*emulate"):
            training.lower(convolutional(), training.recipe("fp8_rowwise"), on_missing="error")
        with pytest.raises(RecipeError, match="emulate or error"):
            training.lower(convolutional(), training.recipe("fp8_rowwise"), on_missing="ignore")

    def test_an_unknown_recipe(self) -> None:
        model = convolutional()
        with pytest.raises(RecipeError, match="fp8_rowwise"):
            training.prepare(model, torch.optim.SGD(model.parameters(), 0.1), "fp8_row")

    def test_optimizers_with_closures(self) -> None:
        model = convolutional()
        with pytest.raises(RecipeError, match=r"LBFGS.*closure"):
            training.prepare(model, torch.optim.LBFGS(model.parameters()), "amp_fp16")

    def test_an_optimizer_of_another_model(self) -> None:
        with pytest.raises(ModelError, match="does not have"):
            training.prepare(convolutional(), torch.optim.SGD(convolutional().parameters(), 0.1), "fp32")

    def test_a_checkpoint_of_another_recipe_is_refused_with_what_differs(self) -> None:
        _, _, one = prepared("fp8_hybrid_current")
        _, _, other = prepared("fp8_hybrid_delayed")
        with pytest.raises(RecipeError, match=r"weight forward: fp8_e4m3/tensor \| fp8_e4m3/tensor delayed1024"):
            other.load_state_dict(one.state_dict())

    def test_a_boost_needs_to_know_the_end(self) -> None:
        with pytest.raises(RecipeError, match="planned"):
            training.lower(convolutional(), training.recipe("hbfp4_6_booster"))

    def test_lowered_twice(self) -> None:
        low = training.lower(convolutional(), training.recipe("fp32"))
        with pytest.raises(ModelError, match="lowered already"):
            training.lower(low, training.recipe("fp32"))

    def test_a_step_of_a_plain_model(self) -> None:
        model = convolutional()
        with pytest.raises(ModelError, match="was not lowered"):
            Step(model, torch.optim.SGD(model.parameters(), 0.1))


def test_layers_that_are_kept_are_printed() -> None:
    _, _, step = prepared("fp8_mellempudi")
    lines = str(step).splitlines()
    assert lines[0] == "recipe: fp8_mellempudi"
    assert any(line.startswith("0") and "kept: first" in line for line in lines)
    assert any(line.startswith("9") and "kept: last" in line for line in lines)
    assert any(line.startswith("1") and "kept: no product" in line for line in lines)
    assert any(line.startswith("7") and "  low" in line for line in lines)


def test_transformers_in_eval_mode_do_not_go_around_the_recipe() -> None:
    model = transformer().eval()
    low = training.lower(model, training.recipe("fp8_hybrid_current")).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        assert not torch.equal(low(x), model(x))
    with torch.no_grad():
        without = low(x)
    torch.testing.assert_close(without, low(x).detach())


def test_inference_leaves_delayed_scales_alone() -> None:
    _, low, step = prepared("fp8_hybrid_delayed")
    losses(low, step, 2)
    before = step.state_dict()["histories"]
    low.eval()
    with torch.no_grad():
        low(images()[0] * 1000)
    assert all(torch.equal(one, before[name]) for name, one in step.state_dict()["histories"].items())


def test_bits_fall_while_it_trains() -> None:
    schedule = "schedule: moq start=8 target=6 period=2 offset=1"
    recipe = f"recipe: q; weight forward: int16r/channel; {schedule}; reach: products"
    model = transformer()
    low, step = training.prepare(model, torch.optim.SGD(model.parameters(), 0.1), recipe)
    seen = []
    for _ in range(9):
        seen.append(str(lowering_of(low).now["2"].cell(Place.WEIGHT_FORWARD)))
        step(low(torch.randn(2, 5, 16)).square().mean())
    assert seen == ["int8r/channel"] * 3 + ["int7r/channel"] * 4 + ["int6r/channel"] * 2
    assert str(lowering_of(low).now["1.self_attn.scores"].cell(Place.WEIGHT_FORWARD)) == "int6r/channel"
