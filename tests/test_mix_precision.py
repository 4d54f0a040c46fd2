"""`mix_precision.fit`: the promise of two lines, for modules and ONNX models, with and without data."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fewbits import mix_precision
from fewbits.config import MixedPrecisionConfig
from fewbits.errors import MetricError, ModelError, TargetError, UsageError
from fewbits.flow.mixed.missing import missing
from fewbits.machine import Gpu, Machine
from fewbits.models.pytorch.converted import Converted
from fewbits.models.pytorch.leaves import ConvertedLayers
from fewbits.plan import Plan
from torch_nets import Residual, encoder


def error(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).detach().norm() / expected.detach().norm())


def in_fp32(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = copy.deepcopy(module).eval()(x)
    return found


class Branching(nn.Module):
    """What no export can trace: its way depends on data."""

    class Plain(nn.Module):
        """What it can."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.sum()) > 0:
            x = self.first(x)
        return self.second(x)


def test_encoder_layers_of_torch_with_nothing_more_given(tmp_path: Path) -> None:
    """neural-compressor 3.7.1 fails here: mat1 and mat2 must have the same dtype."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.TransformerEncoderLayer(64, 2, 128, batch_first=True) for _ in range(2)])
    x, before = torch.randn(2, 5, 64), copy.deepcopy(model.state_dict())
    conf = MixedPrecisionConfig()
    converted_model = mix_precision.fit(model, config=conf)
    converted_model.save(str(tmp_path / "save") + "/")
    assert error(in_fp32(model, x), converted_model(x)) < 0.02
    assert 0 < error(in_fp32(model, x), mix_precision.load(tmp_path / "save")(x)) < 0.02
    # In place is how it is converted there; here the original is as it was.
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    stored = (tmp_path / "save" / "model.pt").stat().st_size
    assert stored < 0.75 * sum(4 * parameter.numel() for parameter in model.parameters())


def test_an_onnx_model_with_nothing_more_given(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 16])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 8])
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = onnx.helper.make_graph([node], "one", [x], [y], [weight])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    before = proto.SerializeToString()
    converted = mix_precision.fit(proto, config=MixedPrecisionConfig())
    saved = converted.save(tmp_path / "save")
    assert proto.SerializeToString() == before
    types = {one.data_type for one in onnx.load(saved).graph.initializer}
    assert types == {onnx.TensorProto.BFLOAT16}
    assert Plan.load(tmp_path / "save" / "plan.json").low == {"product"}
    assert "1 of 1 groups in bf16" in (tmp_path / "save" / "report.txt").read_text()


def test_groups_return_to_float_until_the_score_holds() -> None:
    torch.manual_seed(0)
    model, x = encoder(2), torch.randn(3, 5, 16)
    expected = in_fp32(model, x)
    seen: list[int] = []

    def evaluate(given: object) -> float:
        assert isinstance(given, nn.Module)
        low = [one for one in given.schemes.values() if one != "fp32"] if isinstance(given, Converted) else []
        seen.append(len(low))
        return -len(low) + float(torch.isfinite(given(x)).all())

    found = mix_precision.fit(model, config=MixedPrecisionConfig(max_loss=4.0), eval_func=evaluate)
    assert isinstance(found, Converted)
    low = [name for name, scheme in found.schemes.items() if scheme == "bf16"]
    assert len(low) <= 4 and len(seen) <= 8
    assert "eval_func" in found.report and error(expected, found(x)) < 0.01


class Stream(nn.Module):
    """A residual stream with a branch that hardly weighs."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(*(nn.Linear(16, 16) for _ in range(6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1e-3 * self.branch(x)


def test_groups_return_by_what_they_do_to_the_outputs() -> None:
    """The sum rounds the stream, whatever the layers of the branch lose: it alone has to go back."""
    torch.manual_seed(0)
    model, x = Stream(), torch.randn(64, 16)
    expected = in_fp32(model, x)

    def evaluate(given: nn.Module) -> float:
        with torch.no_grad():
            return -error(expected, given(x))

    conf = MixedPrecisionConfig(max_loss=1e-4)
    found = mix_precision.fit(model, config=conf, eval_func=evaluate, eval_dataloader=[{"x": x}])
    assert isinstance(found, Converted)
    assert {name for name, scheme in found.schemes.items() if scheme == "fp32"} == {"add"}
    assert error(expected, found(x)) < 1e-4


def test_a_metric_by_name_is_scored_on_the_loader() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(32, 3, 8, 8), torch.randint(0, 10, (32,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=8)
    conf = MixedPrecisionConfig(max_loss="any")
    found = mix_precision.fit(Residual(), config=conf, eval_dataloader=loader, eval_metric="accuracy")
    assert "accuracy: " in found.report and "speed: " in found.report


def test_rules_and_lists_decide_and_what_matches_nothing_is_told() -> None:
    conf = MixedPrecisionConfig(rules={r"stem": "fp32", r"nobody.*": "bf16"}, fp32_ops=("add", "softmax"))
    found = mix_precision.fit(Residual(), config=conf, example_inputs=torch.randn(3, 3, 8, 8))
    assert isinstance(found, Converted)
    assert found.schemes["stem"] == "fp32" and found.schemes["inner"] == "bf16"
    assert {scheme for name, scheme in found.schemes.items() if "add" in name} == {"fp32"}
    assert "rule nobody.* matches nothing" in found.report and "fp32_ops softmax matches nothing" in found.report
    assert "the rule 'stem' says so" in found.report


def test_weights_may_stay_wide() -> None:
    model, x = encoder(1), torch.randn(3, 5, 16)
    found = mix_precision.fit(model, config=MixedPrecisionConfig(cast_parameters=False), example_inputs=x)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert 0 < error(in_fp32(model, x), found(x)) < 0.02


def test_fp16_does_not_overflow() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        model[0].weight.mul_(1e6)
        model[1].weight.mul_(1e-6)
    x = torch.randn(16, 8)
    conf = MixedPrecisionConfig(precision="fp16", max_loss="any")
    found = mix_precision.fit(model, config=conf, eval_dataloader=[x[:8], x[8:]])
    assert isinstance(found, Converted)
    assert found.schemes["0"] == "fp32" and found.schemes["2"] == "fp16"
    assert "beyond what fp16 holds" in found.report
    assert bool(torch.isfinite(found(x)).all())


def test_what_cannot_be_exported_is_converted_layer_by_layer() -> None:
    torch.manual_seed(0)
    model, x = Branching(), torch.rand(4, 8)
    found = mix_precision.fit(model, config=MixedPrecisionConfig(), example_inputs=x)
    assert isinstance(found, ConvertedLayers)
    assert found.schemes == {"first": "bf16", "second": "bf16"} and "cannot be exported" in found.report
    for given in (x, -x):
        assert error(in_fp32(model, given), found(given)) < 0.02
    assert error(in_fp32(model, x), mix_precision.fit(model)(x)) < 0.02


@pytest.mark.parametrize(
    ("features", "precision", "lacks"),
    [(("avx512_bf16",), "bf16", False), (("avx2", "f16c"), "bf16", True), (("avx2", "f16c"), "fp16", True)],
)
def test_what_a_machine_lacks_is_told_by_its_features(features: tuple[str, ...], precision: str, lacks: bool) -> None:
    machine = Machine("a CPU", 2, features, 1, "Linux", {})
    assert bool(missing(precision, machine)) is lacks
    assert not missing(precision, machine, [Gpu("a GPU", (9, 0))])


def test_a_machine_that_lacks_it_is_an_error_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mix_precision, "missing", lambda *_: "the abacus has no beads for it")
    model, x = encoder(1), torch.randn(3, 5, 16)
    with pytest.raises(TargetError, match="no beads"):
        mix_precision.fit(model, config=MixedPrecisionConfig(on_missing="error"), example_inputs=x)
    kept = mix_precision.fit(model, config=MixedPrecisionConfig(on_missing="keep_float"), example_inputs=x)
    # torch itself computes its encoder layers in another order without gradients.
    torch.testing.assert_close(kept(x), in_fp32(model, x), rtol=1e-5, atol=1e-5)
    assert "no beads" in kept.report
    assert "slower" in mix_precision.fit(model, example_inputs=x).report


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "fp8"},
        {"objective": "speed"},
        {"on_missing": "stop"},
        {"max_trials": 0},
        {"rules": {"(": "bf16"}},
        {"rules": {"a": "fp16"}},
        {"max_loss": "-1%"},
    ],
    ids=str,
)
def test_a_configuration_that_means_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        MixedPrecisionConfig(**wrong)  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(MetricError, match="needs data"):
        mix_precision.fit(encoder(1), eval_metric="accuracy")
    with pytest.raises(UsageError, match="nothing to measure on"):
        mix_precision.fit(encoder(1), config=MixedPrecisionConfig(objective="latency"))
    with pytest.raises(MetricError, match="never calls the model"):
        mix_precision.fit(encoder(1), eval_func=lambda model: 1.0)


def test_a_stored_module_of_a_class_that_is_not_there_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first call it is the user's own module that is stored; afterwards, a graph that needs no class."""
    later, x = mix_precision.fit(Branching.Plain()), torch.rand(4, 8)
    later.save(tmp_path / "early.pt")
    expected = later(x)
    later.save(tmp_path / "late.pt")
    monkeypatch.delattr(Branching, "Plain")
    with pytest.raises(ModelError, match="called once"):
        mix_precision.load(tmp_path / "early.pt")
    assert torch.equal(mix_precision.load(tmp_path / "late.pt")(x), expected)
