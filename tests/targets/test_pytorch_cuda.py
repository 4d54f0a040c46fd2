"""What a GPU promises: schemes compute what they say, are read back as they ran, and a model is tuned to its end.

Latencies are made up here, as in the other tests; costs of single layers are measured.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import export

import fewbits
from fewbits import Outcome, mix_precision
from fewbits.attribution import attribute
from fewbits.config import MixedPrecisionConfig
from fewbits.errors import ModelError
from fewbits.flow.screening import not_executed
from fewbits.formats.scheme import BF16, INT8_WEIGHT, TF32, Scheme
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.protocol import TORCH_EMULATED
from fewbits.models.pytorch.casting import borders
from fewbits.models.pytorch.converted import artifact, opened
from fewbits.models.pytorch.exporting import parameters_of
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.torch_ops.emulated_layers import Emulated
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.targets.pytorch import Torch
from timing import Timing
from torch_nets import encoder, plan_of, with_own_weights

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    # torch says that tf32 is off, that weights of a cuDNN LSTM lie apart, and that parts of itself are old.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

FP8_TOKENS = Scheme.parse("w:fp8_e4m3/channel a:fp8_e4m3/token dynamic")
FP8 = Scheme.parse("w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic")
INT8_TOKENS = Scheme.parse("w:int8r/channel a:int8r/token dynamic")
INT4 = Scheme.parse("w:uint4/g128@0")
READ_BACK: Mapping[Scheme, str] = {
    BF16: "bf16",
    Scheme.parse("fp16"): "fp16",
    TF32: "tf32",
    FP8_TOKENS: "fp8",
    FP8: "fp8",
    INT8_TOKENS: "int8",
    INT8_WEIGHT: "fp32",
    INT4: "fp32",
}
"""Scheme of the menu → what a product of it is read back as."""
BOUNDS: Mapping[Scheme, float] = {
    BF16: 0.01,
    Scheme.parse("fp16"): 0.002,
    TF32: 0.002,
    FP8_TOKENS: 0.06,
    FP8: 0.06,
    INT8_TOKENS: 0.02,
    INT8_WEIGHT: 0.015,
    INT4: 0.2,
}
"""The relative error that each may leave of two products with a norm between them."""
NEAR = 0.01
"""How far a kernel may be from the emulation of its scheme in float32: results in bf16, sums in fewer bits."""
WIDTH = 256
X = torch.randn(256, WIDTH, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """Two products with a norm and an activation between them, and a residual around."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 2 * WIDTH)
        self.norm = nn.LayerNorm(2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x + self.second(self.norm(nn.functional.gelu(self.first(x))))
        return found


class Recurrent(nn.Module):
    """An LSTM with a classifier behind its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(32, 64, num_layers=2, batch_first=True)
        self.out = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.rnn(x)[0][:, -1])
        return found


class Positioned(nn.Module):
    """Tokens with positions, which are made at every call, on the device of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places, self.layer = nn.Embedding(11, 64), nn.Embedding(16, 64), nn.Linear(64, 6)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        places = torch.arange(rows.shape[1], device=rows.device).expand(rows.shape)
        found: torch.Tensor = self.layer(self.tokens(rows) + self.places(places))
        return found


def block() -> Block:
    torch.manual_seed(0)
    return Block().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> TorchModel:
    return TorchModel.of(block().to(DEVICE), {"x": X.to(DEVICE)})


def away(expected: torch.Tensor, found: object) -> float:
    assert isinstance(found, torch.Tensor) and found.shape == expected.shape
    other = found.detach().cpu().double()
    return float((expected.detach().cpu().double() - other).norm() / expected.detach().cpu().double().norm())


def data(samples: int = 96, *shape: int) -> list[np.ndarray]:
    values = np.random.default_rng(0).standard_normal((samples, *(shape or (WIDTH,)))).astype(np.float32)
    return [values[start : start + 8] for start in range(0, samples, 8)]


@pytest.mark.parametrize("scheme", BOUNDS, ids=str)
def test_a_scheme_computes_what_it_says(model: TorchModel, scheme: Scheme) -> None:
    expected = block()(X)
    converted = model.module(plan_of(model, scheme))
    assert {converted.schemes[name] for name in ("first", "second")} == {str(scheme)}
    with torch.inference_mode():
        found = converted(X.to(DEVICE))
    assert isinstance(found, torch.Tensor) and found.device.type == DEVICE and found.dtype == torch.float32
    assert away(expected, found) < BOUNDS[scheme]
    if scheme != TF32:
        # The same plan on the CPU, computed in float32 from rounded operands.
        slow = TorchModel.of(block(), {"x": X})
        emulated = slow.module(replace(plan_of(slow, scheme), target=TORCH_EMULATED))(X)
        assert away(emulated, found) < NEAR
    stored = opened(artifact(converted).content)
    assert torch.equal(stored(X.to(DEVICE)), found)
    state = converted.state_dict()
    with torch.no_grad():
        for tensor in (*stored.parameters(), *stored.buffers()):
            tensor.copy_(torch.zeros_like(tensor))
    stored.load_state_dict(state)
    assert torch.equal(stored(X.to(DEVICE)), found)


@pytest.mark.parametrize("scheme", READ_BACK, ids=str)
def test_products_are_read_back_as_they_ran(model: TorchModel, scheme: Scheme) -> None:
    plan = plan_of(model, scheme)
    ran = Torch.of(1, device=DEVICE).executed(model.converted(plan), {"x": X.numpy()}, 3)
    shares = attribute(model.graph, group(model.graph), ran)
    assert {shares[name].precision for name in ("first", "second")} == {READ_BACK[scheme]}
    assert not not_executed(plan, shares)
    assert all(one.seconds > 0 for one in ran)


def test_float32_is_not_taken_for_tf32(model: TorchModel) -> None:
    for compiled in (False, True):
        ran = Torch.of(1, device=DEVICE, compiled=compiled).executed(model.original(), {"x": X.numpy()}, 2)
        assert {one.name: one.precision for one in ran if one.name in ("first", "second")} == {
            "first": "fp32",
            "second": "fp32",
        }


@pytest.mark.parametrize("scheme", [BF16, TF32, FP8_TOKENS, INT8_TOKENS], ids=str)
def test_a_compiled_call_is_led_back_to_its_layers(model: TorchModel, scheme: Scheme) -> None:
    plan = plan_of(model, scheme)
    target = Torch.of(1, device=DEVICE, compiled=True)
    ran = target.executed(model.converted(plan), {"x": X.numpy()}, 3)
    products = {one.name: one.precision for one in ran if one.name in ("first", "second")}
    assert products == dict.fromkeys(("first", "second"), READ_BACK[scheme])
    assert all(one.seconds > 0 for one in ran)
    # Activation and norm are in kernels that stand for several calls.
    assert any({"gelu", "norm"} & set(one.outputs) for one in ran if one.kernel == "fused")
    shares = attribute(model.graph, group(model.graph), ran)
    assert not not_executed(plan, shares)
    with target.open(model.converted(plan)) as session:
        (found,) = session({"x": X.numpy()}).values()
    assert away(block()(X), torch.from_numpy(found)) < BOUNDS[scheme]


def test_a_module_is_not_believed(model: TorchModel) -> None:
    """It says int8, and multiplies in float32: the group is named, and goes back to fp32."""
    plan = plan_of(model, INT8_TOKENS)
    module = model.module(plan)
    honest = module.graph_module.get_submodule("first")
    assert isinstance(honest, LowPrecision)
    weight, bias = (torch.from_numpy(model.weight(f"first.{what}").copy()) for what in ("weight", "bias"))
    module.graph_module.set_submodule("first", Emulated.from_float(honest.call, weight, bias))
    ran = Torch.of(1, device=DEVICE).executed(artifact(module), {"x": X.numpy()}, 2)
    shares = attribute(model.graph, group(model.graph), ran)
    assert (shares["first"].precision, shares["second"].precision) == ("fp32", "int8")
    assert list(not_executed(plan, shares)) == ["first"]


def test_a_stack_of_encoders_in_bf16_has_one_cast_in_and_one_out() -> None:
    torch.manual_seed(0)
    module = with_own_weights(encoder(12, 64)).eval().requires_grad_(False)
    x = torch.randn(3, 16, 64)
    model = TorchModel.of(copy.deepcopy(module).to(DEVICE), {"src": x.to(DEVICE)})
    converted = model.module(plan_of(model, BF16))
    assert [node.kwargs["dtype"] for node in borders(converted.graph)] == [torch.bfloat16, torch.float32]
    assert away(module(x), converted(x.to(DEVICE))) < 0.02


class TestDevices:
    """A model, its data, its target and its file need not be on one device."""

    def test_a_plan_is_for_a_model_on_any_device(self) -> None:
        torch.manual_seed(0)
        module, rows = Positioned().eval(), torch.arange(12).reshape(3, 4) % 11
        here = TorchModel.of(module, {"rows": rows})
        there = open_model(module, [{"rows": rows}], DEVICE)
        exported = open_model(export(module, (rows,)), (), DEVICE)
        assert here.sha256 == TorchModel.of(copy.deepcopy(module).to(DEVICE), {"rows": rows.to(DEVICE)}).sha256
        assert {there.device, exported.device} == {DEVICE} and here.device == "cpu"
        for one in (there, exported):
            assert isinstance(one, TorchModel)
            found = one.module(plan_of(one, BF16))(rows.to(DEVICE))
            assert away(module(rows), found) < 0.02

    def test_floats_go_from_one_to_the_other(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        module, rows = Positioned().eval(), torch.arange(12).reshape(3, 4) % 11
        expected = module(rows)
        for start, end in (("cpu", DEVICE), (DEVICE, "cpu")):
            model = open_model(module, [{"rows": rows}], start)
            assert isinstance(model, TorchModel)
            converted = model.module(plan_of(model, BF16))
            converted.save(tmp_path / f"{start}.pt")
            read = opened((tmp_path / f"{start}.pt").read_bytes(), end)
            for there in (read, copy.deepcopy(converted).to(end)):
                assert away(expected, there(rows.to(end))) < 0.02

    def test_kernels_of_the_gpu_stay_there(self, model: TorchModel) -> None:
        converted = model.module(plan_of(model, FP8_TOKENS))
        with pytest.raises(ModelError, match=r"converted for cuda.*convert the original for cpu"):
            converted.to("cpu")
        with pytest.raises(ModelError, match="convert the original for cpu"):
            opened(artifact(converted).content, "cpu")

    def test_rounding_is_that_of_the_cpu(self) -> None:
        torch.manual_seed(0)
        module, x = nn.Sequential(nn.Linear(64, 32)).eval().requires_grad_(False), torch.randn(6, 64)
        rules, batches = ["*=w:mxfp4/g32@0 a:mxfp4 dynamic"], [x.numpy()]
        wanted = fewbits.emulate(module, rules, batches)(x)
        there = fewbits.emulate(copy.deepcopy(module).to(DEVICE), rules, batches)(x.to(DEVICE))
        assert isinstance(there, torch.Tensor) and there.device.type == DEVICE
        assert away(wanted, there) < 1e-5 < away(module(x), there)


@pytest.mark.parametrize(("scheme", "bound"), [(BF16, 0.02), (Scheme.parse("fp16"), 0.005), (INT8_WEIGHT, 0.02)])
def test_a_recurrent_layer(scheme: Scheme, bound: float) -> None:
    torch.manual_seed(0)
    module, x = Recurrent().eval().requires_grad_(False), torch.randn(5, 9, 32)
    model = TorchModel.of(copy.deepcopy(module).to(DEVICE), {"x": x.to(DEVICE)})
    converted = model.module(plan_of(model, scheme))
    assert converted.schemes["rnn"] == str(scheme)
    assert 0 < away(module(x), converted(x.to(DEVICE))) < bound
    ran = Torch.of(1, device=DEVICE).executed(artifact(converted), {"x": x.numpy()}, 2)
    shares = attribute(model.graph, group(model.graph), ran)
    assert shares["rnn"].precision == ("fp32" if scheme == INT8_WEIGHT else str(scheme))


class TestMixedPrecision:
    """`mix_precision.fit` of a module that is on the GPU: so is what comes back."""

    def test_with_nothing_more_given(self) -> None:
        converted = mix_precision.fit(block().to(DEVICE), MixedPrecisionConfig())
        found = converted(X.to(DEVICE))
        assert isinstance(found, torch.Tensor) and found.device.type == DEVICE
        assert 0 < away(block()(X), found) < 0.01

    def test_data_may_be_on_the_cpu(self, timed: Timing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fewbits.flow.mixed.fit.compare", timed.compare)
        converted = mix_precision.fit(block().to(DEVICE), MixedPrecisionConfig(), eval_dataloader=data())
        found = converted(X.to(DEVICE))
        assert isinstance(found, torch.Tensor) and found.device.type == DEVICE
        assert 0 < away(block()(X), found) < 0.01

    def test_the_function_of_the_user_sees_a_module_there(self) -> None:
        seen: list[str] = []

        def score(module: object) -> float:
            assert isinstance(module, nn.Module)
            found = module(X.to(DEVICE))
            seen.append(found.device.type)
            return 1.0 - away(block()(X), found)

        converted = mix_precision.fit(block().to(DEVICE), MixedPrecisionConfig(max_loss="1%"), eval_func=score)
        assert set(seen) == {DEVICE}
        assert away(block()(X), converted(X.to(DEVICE))) < 0.01


class TestTuning:
    """Data are on the CPU; every scheme of the menu is priced on the GPU."""

    @pytest.fixture(autouse=True)
    def real_costs(self, monkeypatch: pytest.MonkeyPatch, own_costs: Path) -> None:
        Timing().install(monkeypatch.setattr, costs=False)

    def test_a_module_on_the_cpu(self) -> None:
        module = block()
        honest(tuned(module, data()), module, data()[0])
        assert {one.device.type for one in module.parameters()} == {"cpu"}

    def test_a_transformer_on_the_gpu(self) -> None:
        torch.manual_seed(0)
        module = with_own_weights(encoder(1, 64)).eval().requires_grad_(False).to(DEVICE)
        batches = data(96, 16, 64)
        honest(tuned(module, batches), module, batches[0])
        assert {one.device.type for one in module.parameters()} == {DEVICE}

    def test_compiled(self) -> None:
        """One scheme beside fp32: each takes seconds to compile."""
        module = block()
        result = tuned(module, data(), ":compiled", rules=["*=bf16"])
        honest(result, module, data()[0], ":compiled")
        assert {str(result.plan.scheme(name)) for name in result.plan.low} == {"bf16"}


def tuned(module: nn.Module, batches: list[np.ndarray], form: str = "", rules: Sequence[str] = ()) -> fewbits.Result:
    target = f"torch:{DEVICE}{form}"
    return fewbits.tune(
        module, batches, evaluate="cosine", max_loss=0.03, target=target, effort="low", rules=list(rules)
    )


def honest(result: fewbits.Result, module: nn.Module, values: np.ndarray, form: str = "") -> None:
    """The answer is of the device, computes what its record says, and no group is in a scheme that did not run."""
    assert result.outcome is Outcome.MET, result.record.reason
    assert result.target == f"torch:{DEVICE}{form}"
    plain = {replace(result.plan.scheme(name), smoothed=False) for name in result.plan.low}
    assert plain and plain <= set(READ_BACK)
    expected = copy.deepcopy(module).to("cpu")(torch.from_numpy(values))
    (name,) = parameters_of(module)[:1]
    (predicted,) = result.predict({name: values}).values()
    found = result.module(torch.from_numpy(values).to(DEVICE))
    assert isinstance(found, torch.Tensor) and found.device.type == DEVICE
    assert away(torch.from_numpy(predicted), found) < (0.005 if form else 1e-3)
    cosine = nn.functional.cosine_similarity(expected.flatten(1), torch.from_numpy(predicted).flatten(1))
    assert float(cosine.mean()) > 1 - 0.03 - 1e-3
