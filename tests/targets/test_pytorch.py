"""What PyTorch really ran is read back, call by call and compiled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor import config

from fewbits.attribution import attribute
from fewbits.costs.cache import CostCache
from fewbits.costs.measured import Measuring, cost_table
from fewbits.costs.table import CostTable
from fewbits.data.batches import Batch
from fewbits.errors import ModelError, TargetError
from fewbits.flow.screening import not_executed
from fewbits.formats.scheme import BF16, INT8_STATIC, INT8_WEIGHT, Scheme
from fewbits.grouping import group
from fewbits.models.protocol import Artifact
from fewbits.models.pytorch.converted import artifact
from fewbits.models.pytorch.model import TorchModel
from fewbits.models.torch_ops.emulated_layers import Emulated
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.models.torch_ops.operation import Activation
from fewbits.plan import Choice, Plan
from fewbits.progress import Silent
from fewbits.targets import open_target
from fewbits.targets.protocol import Executed
from fewbits.targets.pytorch import Torch
from torch_nets import plan_of

EAGER = Torch.of(1)
FP8 = Scheme.parse("w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic")
X = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
QUICK = {"cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": True, "cpp.simdlen": 0}
"""What makes compiling fast instead of its result."""
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


class Block(nn.Module):
    """Two products with a norm and an activation between them, and a residual around."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 96)
        self.norm = nn.LayerNorm(96)
        self.second = nn.Linear(96, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x + self.second(self.norm(nn.functional.gelu(self.first(x))))
        return found


@pytest.fixture(scope="module")
def model() -> TorchModel:
    torch.manual_seed(0)
    return TorchModel.of(Block(), {"x": X})


@pytest.fixture
def quick() -> Iterator[None]:
    with config.patch(QUICK):
        yield


def planned(model: TorchModel, scheme: Scheme) -> Plan:
    plan = plan_of(model, scheme)
    names = {name for made in group(model.graph) for name in made.operands}
    return replace(plan, ranges=dict.fromkeys(names, (-6.0, 6.0)) if scheme.is_static else {})


def ran(model: TorchModel, target: Torch, made: Artifact) -> tuple[Executed, ...]:
    return tuple(target.executed(made, {"x": X.numpy()}, 3))


def prices(model: TorchModel, target: Torch, folder: Path, *schemes: Scheme) -> CostTable:
    products = [made for made in group(model.graph) if made.is_product]
    names = sorted({name for made in products for name in made.operands})
    (values,) = model.observe([Batch({"x": X.numpy()})], names)
    with CostCache.open(folder / "costs.db") as cache:
        measuring = Measuring(model, target, products, values, Silent())
        return cost_table(measuring, {made.name: schemes for made in products}, cache)


def test_products_have_the_kernel_of_the_log(model: TorchModel) -> None:
    plan = planned(model, INT8_STATIC)
    plan = replace(plan, choices={**plan.choices, "second": Choice(str(BF16), "another")})
    shares = attribute(model.graph, group(model.graph), ran(model, EAGER, model.converted(plan)))
    assert {name: shares[name].precision for name in ("first", "second")} == {"first": "int8", "second": "bf16"}
    for name in ("first", "second"):
        # "matmul brg_matmul:avx512_core_amx", "matmul jit:…": a primitive and its implementation.
        assert shares[name].kernel.startswith("matmul ") and " ref" not in shares[name].kernel
    assert not not_executed(plan, shares)


def test_a_module_is_not_believed(model: TorchModel) -> None:
    """It says int8, and multiplies in float32: the group is named, and goes back to fp32."""
    plan = planned(model, INT8_STATIC)
    module = model.module(plan)
    honest = module.graph_module.get_submodule("first")
    weight, bias = (torch.from_numpy(model.weight(f"first.{what}").copy()) for what in ("weight", "bias"))
    assert isinstance(honest, LowPrecision)
    call = replace(honest.call, activation=Activation.NONE, result=torch.float32)
    module.graph_module.set_submodule("first", Emulated.from_float(call, weight, bias, [(-6.0, 6.0)]))
    shares = attribute(model.graph, group(model.graph), ran(model, EAGER, artifact(module)))
    assert (shares["first"].precision, shares["first"].kernel) == ("fp32", "aten::addmm")
    assert shares["second"].precision == "int8"
    assert not_executed(plan, shares) == {"first": "the runtime ran it in fp32 (aten::addmm), against the plan"}


def test_a_reference_kernel_is_told(model: TorchModel) -> None:
    # There is no fp8 kernel for CPUs, and oneDNN computes it all the same. Prices refuse what has " ref" in its name.
    shares = attribute(model.graph, group(model.graph), ran(model, EAGER, model.converted(planned(model, FP8))))
    assert {shares[name].kernel for name in ("first", "second")} == {"matmul ref:any"}


def test_floats_are_read_without_another_process(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", None)
    for made in (model.original(), model.converted(planned(model, INT8_WEIGHT))):
        shares = attribute(model.graph, group(model.graph), ran(model, EAGER, made))
        assert shares["first"].precision == "fp32" and shares["first"].seconds > 0


def test_what_does_not_run_is_said(model: TorchModel) -> None:
    with pytest.raises(ModelError, match="does not run the model"):
        EAGER.executed(model.original(), {"x": X[:, :5].numpy()}, 1)


@needs_compiler
@pytest.mark.timeout(600)  # seconds, unless compilers wait for each other
def test_kernels_of_a_compiled_model_are_led_back_to_its_layers(model: TorchModel, quick: None) -> None:
    target = Torch.of(1, compiled=True)
    plan = planned(model, BF16)
    found = ran(model, target, model.converted(plan))
    products = [one for one in found if one.kernel.startswith("aten::")]
    assert [(one.name, one.precision) for one in products] == [("first", "bf16"), ("second", "bf16")]
    # Activation and norm are one kernel, the residual and the cast back another: neither is timed as if it ran alone.
    fused = [one for one in found if one.kernel == "fused" and one.precision != "boundary"]
    assert any({"gelu", "norm"} <= set(one.outputs) for one in fused)
    assert any({"add", "add.float32"} <= set(one.outputs) for one in fused)
    assert len(found) < len(model.module(plan).labels)
    assert all(one.seconds > 0 for one in found)
    shares = attribute(model.graph, group(model.graph), found)
    assert shares["first"].precision == shares["second"].precision == "bf16"
    assert not not_executed(plan, shares)


@needs_compiler
@pytest.mark.timeout(600)
def test_regions_are_priced_as_they_are_compiled(model: TorchModel, quick: None, tmp_path: Path) -> None:
    costs = prices(model, Torch.of(1, compiled=True), tmp_path, INT8_STATIC).costs
    for name in ("first", "second"):
        cost = costs[name][str(INT8_STATIC)]
        assert (cost.kernel, cost.precision) == ("fewbits::int8_linear", "int8")
        # Codes are made by a kernel of their own region, in front of the product.
        assert cost.entry > 0 and cost.compute > 0 and not cost.refusal


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    with config.patch({"cpp.cxx": (None, "no-compiler-of-this-name")}):
        with pytest.raises(TargetError, match=r"needs a C\+\+ compiler.*torch:cpu"):
            open_target("torch:cpu:compiled", threads=1)
        assert open_target("torch:cpu", threads=1).name == "torch:cpu"


def test_for_a_few_calls_nothing_is_compiled() -> None:
    """Hundreds of forms are looked at once each when groups are ranked."""
    model = TorchModel.of(nn.Linear(64, 8), {"input": X})
    session = Torch(1, compiled=True).open_once(model.original())
    assert session.call is session.module.graph_module  # type: ignore[attr-defined]
    (found,) = session({"input": X.numpy()}).values()
    (wanted,) = EAGER.open(model.original())({"input": X.numpy()}).values()
    assert (found == wanted).all()
