"""Costs on the real runtimes with small models, and on one that is made up where seconds decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import builders
from fewbits.costs.cache import CostCache
from fewbits.costs.measured import Measuring, cost_table
from fewbits.costs.table import CostTable
from fewbits.data.batches import Arrays, Batch
from fewbits.errors import ModelError
from fewbits.formats.scheme import BF16, FP16, FP32, INT8_DYNAMIC, INT8_PAIR, INT8_STATIC, INT8_WEIGHT, Scheme
from fewbits.graph import Graph
from fewbits.grouping import Group, group
from fewbits.machine import Machine
from fewbits.models import open_model
from fewbits.models.protocol import Artifact, Model
from fewbits.progress import Silent
from fewbits.space import Menu
from fewbits.targets import TARGETS, open_target
from fewbits.targets.protocol import Executed, Session, Target

Wanted = dict[str, tuple[Scheme, ...]]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CostCache]:
    with CostCache.open(tmp_path / "costs.sqlite") as opened:
        yield opened


def measuring(model: onnx.ModelProto, inputs: Arrays, target: Target) -> Measuring:
    opened = open_model(model)
    groups = group(opened.graph)
    names = list(dict.fromkeys(name for one in groups for name in one.operands))
    (values,) = opened.observe([Batch(inputs)], names)
    return Measuring(opened, target, groups, values, Silent())


def wanted(one: Measuring) -> Wanted:
    """Everything on the target's menu."""
    return {made.name: one.target.menu(one.graph, made).schemes for made in one.groups}


def products(one: Measuring) -> list[str]:
    return [made.name for made in one.groups if made.is_product]


# --- the real runtimes ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["pooled_classifier", "squeeze_excite", "mlp_gelu", "transformer"])
def test_every_scheme_on_the_menu_has_a_cost_or_a_refusal(cache: CostCache, name: str, target: str) -> None:
    case = builders.CASES[name]
    one = measuring(case.model(0), case.inputs(1, 0), open_target(target, 1))
    asked = wanted(one)
    table = cost_table(one, asked, cache)
    assert {name: set(map(str, schemes)) for name, schemes in asked.items()} == {
        name: set(costs) for name, costs in table.costs.items()
    }
    for made in one.groups:
        fp32 = table.costs[made.name]["fp32"]
        assert (fp32.refusal, fp32.precision) == ("", "fp32")
        for scheme, cost in table.usable(made.name).items():
            assert cost.kernel
            if made.is_product and Scheme.parse(scheme).is_static:
                assert cost.precision == "int8"
            if made.is_product and Scheme.parse(scheme).is_cast:
                assert cost.precision == scheme
        for cost in table.costs[made.name].values():
            assert cost.refusal or cost.total >= 0


def test_layers_that_are_alike_are_measured_once(cache: CostCache, monkeypatch: pytest.MonkeyPatch) -> None:
    net = builders.Net()
    x = "x"
    for _ in range(4):
        x = net.add("Relu", net.conv(x, 3, 3))
    shape = ("batch", 3, builders.SIZE, builders.SIZE)
    model = net.model({"x": (1, shape)}, {"y": (net.add("Softmax", x), shape)})
    one = measuring(model, builders.images(1), open_target("onnxruntime", 1))
    assert len(one.groups) == 4
    cut: list[int] = []
    regions = type(one.model).regions

    def counted(model: Model, groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]) -> object:
        cut.append(len(groups))
        return regions(model, groups, shapes)  # type: ignore[arg-type]

    monkeypatch.setattr(type(one.model), "regions", counted)
    table = cost_table(one, {made.name: (FP32, INT8_STATIC) for made in one.groups}, cache)
    assert (table.measured, table.known) == (2, 0)
    assert cut == [1, 1]
    assert len({repr(costs) for costs in table.costs.values()}) == 1


def test_what_was_measured_in_one_model_is_known_in_another(cache: CostCache) -> None:
    """Equal regions are equal whatever stands around them, and whatever their weights are."""
    target = open_target("onnxruntime", 1)
    one = measuring(builders.gemm(0), builders.features(1), target)
    first = cost_table(one, wanted(one), cache)
    assert first.known == 0
    other = measuring(builders.gemm(7), builders.features(1, 3), target)
    second = cost_table(other, wanted(other), cache)
    assert (second.measured, second.known) == (0, first.measured)
    assert second.costs == first.costs


def test_another_batch_is_another_region(cache: CostCache) -> None:
    target = open_target("onnxruntime", 1)
    for batch in (1, 4):
        one = measuring(builders.gemm(), builders.features(batch), target)
        table = cost_table(one, wanted(one), cache)
        assert table.known == 0


def test_bf16_on_onnx_runtime_is_refused_in_its_own_words(cache: CostCache) -> None:
    one = measuring(builders.mlp_gelu(), builders.features(1), open_target("onnxruntime", 1))
    table = cost_table(one, dict.fromkeys(products(one), (FP32, BF16, INT8_DYNAMIC)), cache)
    for name in products(one):
        refusal = table.costs[name]["bf16"].refusal
        assert "ONNX Runtime" in refusal
        assert "does not load the model" in refusal
        assert "\n" not in refusal
        assert table.costs[name]["fp32"].kernel
        assert table.costs[name][str(INT8_DYNAMIC)].precision == "int8"


def test_fp16_on_onnx_runtime_is_refused_because_it_ran_in_fp32(cache: CostCache) -> None:
    """The runtime loads it and inserts casts: a plan that says fp16 would be untrue."""
    one = measuring(builders.mlp_gelu(), builders.features(1), open_target("onnxruntime", 1))
    table = cost_table(one, dict.fromkeys(products(one), (FP32, FP16)), cache)
    for name in products(one):
        assert table.costs[name]["fp16"].refusal.startswith("the runtime ran it in fp32 (")
        assert list(table.usable(name)) == ["fp32"]


def test_a_product_of_floats_by_a_stored_weight_is_what_it_says(cache: CostCache) -> None:
    """Whatever the arithmetic is called, it is as asked; only a cliff could be a reason against it."""
    one = measuring(builders.mlp_gelu(), builders.features(1), open_target("openvino", 1))
    table = cost_table(one, dict.fromkeys(products(one), (FP32, INT8_WEIGHT)), cache)
    refusals = {table.costs[name][str(INT8_WEIGHT)].refusal for name in products(one)}
    assert all(not refusal or "times slower than fp32" in refusal for refusal in refusals)


# --- a runtime that is made up -------------------------------------------------------------------

Ran = Callable[[frozenset[str], bool], Sequence[Executed]]
"""Which nodes ran for the groups of a model, in codes or in floats."""


def node(name: str, seconds: float, *, kernel: str = "Gemm", precision: str = "fp32") -> Executed:
    return Executed(name, kernel, precision, (), seconds)


@dataclass
class MadeUp:
    """A runtime that says of a model what it is told to. `opened` remembers each model's groups, and if in codes."""

    ran: Ran
    known: frozenset[str]
    version: str = "1"
    threads: int = 1
    name: str = "onnxruntime:cpu"
    cpu: str = "a CPU"
    features: tuple[str, ...] = ("avx2",)
    opened: list[tuple[frozenset[str], bool]] = field(default_factory=list)

    @property
    def machine(self) -> Machine:
        return Machine(self.cpu, 2, self.features, 1 << 30, "Linux", {"onnxruntime": self.version, "fewbits": "0"})

    def menu(self, graph: Graph, group: Group) -> Menu:
        raise NotImplementedError

    def files(self, artifact: Artifact, folder: Path) -> Mapping[str, Path]:
        raise NotImplementedError

    def open(self, artifact: Artifact) -> Session:
        raise NotImplementedError

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        nodes = onnx.load_from_string(artifact.content).graph.node
        names = {one.name for one in nodes}
        groups = frozenset(name for name in self.known if any(f"{one}.".startswith(f"{name}.") for one in names))
        codes = any(one.op_type == "QuantizeLinear" for one in nodes)
        self.opened.append((groups, codes))
        return self.ran(groups, codes)


GEMMS = ("gemm_0", "gemm_2")


def made_up(ran: Ran) -> Measuring:
    return measuring(builders.gemm(), builders.features(1), MadeUp(ran, frozenset(GEMMS)))


def costs(one: Measuring, cache: CostCache, *schemes: Scheme) -> CostTable:
    return cost_table(one, dict.fromkeys(GEMMS, (FP32, *schemes)), cache)


def taking(**seconds: float) -> Ran:
    """fp32 takes a second; codes take as long as said for the kernel that the keyword names."""
    ((kernel, low),) = seconds.items()

    def ran(groups: frozenset[str], codes: bool) -> Sequence[Executed]:
        return [
            node(name, low, kernel=kernel.replace("_", " "), precision="int8") if codes else node(name, 1.0)
            for name in sorted(groups)
        ]

    return ran


INT8 = str(INT8_STATIC)


@pytest.mark.parametrize(("seconds", "is_cliff"), [(0.1, False), (2.9, False), (3.1, True), (40.0, True)])
def test_three_times_slower_than_fp32_is_a_cliff(cache: CostCache, seconds: float, is_cliff: bool) -> None:
    one = made_up(taking(QGemm=seconds))
    table = costs(one, cache, INT8_STATIC)
    for name in GEMMS:
        refusal = table.costs[name][INT8].refusal
        assert refusal == (f"{seconds:.1f} times slower than fp32 (QGemm)" if is_cliff else "")
        assert table.costs[name][INT8].compute == seconds


def test_getting_in_and_out_makes_no_cliff(cache: CostCache) -> None:
    """Between neighbours in the same scheme nothing is converted: a sum between codes is worth having."""

    def ran(groups: frozenset[str], codes: bool) -> Sequence[Executed]:
        if not codes:
            return [node(name, 1.0) for name in groups]
        return [
            part
            for name in groups
            for part in (
                node(f"{name}.quantize", 5.0, kernel="QuantizeLinear", precision="boundary"),
                node(name, 0.5, kernel="QGemm", precision="int8"),
                node(f"{name}.dequantize", 6.0, kernel="DequantizeLinear", precision="boundary"),
            )
        ]

    table = costs(made_up(ran), cache, INT8_STATIC)
    cost = table.usable("gemm_0")[INT8]
    assert (cost.entry, cost.compute, cost.exit) == (5.0, 0.5, 6.0)
    assert (cost.kernel, cost.precision) == ("QGemm", "int8")


def test_a_reference_kernel_is_a_trap_however_fast_it_was(cache: CostCache) -> None:
    table = costs(made_up(taking(Gemm_ref_any=0.5)), cache, INT8_STATIC)
    assert table.costs["gemm_0"][INT8].refusal == "a reference kernel ran it (Gemm ref any)"


def test_layout_changes_are_no_arithmetic(cache: CostCache) -> None:
    """Transposes before the kernel belong to getting in, those behind it to getting out."""

    def ran(groups: frozenset[str], codes: bool) -> Sequence[Executed]:
        return [
            part
            for name in groups
            for part in (
                node(f"{name}.before", 0.25, kernel="com.microsoft.ReorderInput"),
                node(name, 1.0),
                node(f"{name}.fused", 0.125, kernel="Relu"),
                node(f"{name}.behind", 0.5, kernel="Transpose"),
            )
        ]

    cost = costs(made_up(ran), cache).costs["gemm_0"]["fp32"]
    assert (cost.entry, cost.compute, cost.exit) == (0.25, 1.125, 0.5)
    assert cost.total == 1.875


@pytest.mark.parametrize("bad", [{"gemm_0"}, {"gemm_2"}, set(GEMMS)])
def test_what_does_not_load_is_found_by_halving(cache: CostCache, bad: set[str]) -> None:
    """The rest of the same model is measured all the same."""
    plain = taking(QGemm=0.5)

    def ran(groups: frozenset[str], codes: bool) -> Sequence[Executed]:
        if codes and bad & groups:
            raise ModelError("the runtime\n  does not like it")
        return plain(groups, codes)

    one = made_up(ran)
    table = costs(one, cache, INT8_STATIC)
    assert {name for name in GEMMS if table.costs[name][INT8].refusal} == bad
    assert {table.costs[name][INT8].refusal for name in bad} == {"the runtime does not like it"}
    assert isinstance(one.target, MadeUp)
    halves = [(frozenset(GEMMS), True), (frozenset({"gemm_0"}), True), (frozenset({"gemm_2"}), True)]
    assert one.target.opened == [(frozenset(GEMMS), False), *halves]
    # What is refused is known, too.
    again = costs(one, cache, INT8_STATIC)
    assert (again.measured, again.known) == (0, 4)
    assert again.costs == table.costs


def test_what_the_runtime_does_not_name_is_refused(cache: CostCache) -> None:
    plain = taking(QGemm=0.5)
    one = made_up(lambda groups, codes: plain(groups - {"gemm_2"} if codes else groups, codes))
    table = costs(one, cache, INT8_STATIC)
    assert table.costs["gemm_2"][INT8].refusal == "the runtime names no kernel for it"
    assert not table.costs["gemm_0"][INT8].refusal


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_codes_that_ran_in_floats_are_refused(cache: CostCache, precision: str) -> None:
    def ran(groups: frozenset[str], codes: bool) -> Sequence[Executed]:
        return [node(name, 1.0, precision=precision if codes else "fp32") for name in groups]

    table = costs(made_up(ran), cache, INT8_STATIC)
    assert table.costs["gemm_0"][INT8].refusal == f"the runtime ran it in {precision} (Gemm)"


@pytest.mark.parametrize(
    "change",
    [{"version": "2"}, {"threads": 2}, {"cpu": "another CPU"}, {"features": ("avx2", "amx")}, {"name": "openvino:cpu"}],
)
def test_another_runtime_or_machine_measures_anew(cache: CostCache, change: dict[str, object]) -> None:
    one = made_up(taking(QGemm=0.5))
    assert costs(one, cache, INT8_STATIC).measured == 4
    assert isinstance(one.target, MadeUp)
    other = replace(one, target=replace(one.target, **change))  # type: ignore[arg-type]
    table = costs(other, cache, INT8_STATIC)
    assert (table.measured, table.known) == (4, 0)
    assert costs(one, cache, INT8_STATIC).known == 4


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64])
def test_a_group_that_does_not_read_float32_is_left_alone(cache: CostCache, dtype: type[np.generic]) -> None:
    one = made_up(taking(QGemm=0.5))
    first, second = one.values
    one = replace(one, values={first: one.values[first], second: one.values[second].astype(dtype)})
    table = costs(one, cache, INT8_STATIC)
    assert set(table.costs) == {"gemm_0"}
    assert table.usable("gemm_2") == {}


def test_a_group_that_nobody_asks_about_is_left_alone(cache: CostCache) -> None:
    table = cost_table(made_up(taking(QGemm=0.5)), {"gemm_2": (FP32, INT8_STATIC)}, cache)
    assert set(table.costs) == {"gemm_2"}
    assert table.measured == 2


def test_a_joint_may_compute_in_what_it_is_fused_with(cache: CostCache) -> None:
    """Between floats its precision says nothing about what it would be between codes."""
    case = builders.CASES["pooled_classifier"]
    one = measuring(case.model(0), case.inputs(1, 0), MadeUp(_floats_only, frozenset({"averagepool_5"})))
    table = cost_table(one, {"averagepool_5": (FP32, INT8_PAIR)}, cache)
    assert not table.costs["averagepool_5"][str(INT8_PAIR)].refusal


def test_a_joint_that_is_one_kernel_with_its_conversions_computes_all_the_time(cache: CostCache) -> None:
    """OpenVINO makes one kernel of quantiser, sum and quantiser, and names it after the first; it is not free."""

    def ran(groups: frozenset[str], codes: bool) -> Sequence[Executed]:
        return [
            node(f"{one}.x.quantize" if codes else one, 2.0, kernel="Subgraph", precision="boundary") for one in groups
        ]

    case = builders.CASES["pooled_classifier"]
    one = measuring(case.model(0), case.inputs(1, 0), MadeUp(ran, frozenset({"averagepool_5"})))
    cost = cost_table(one, {"averagepool_5": (FP32, INT8_PAIR)}, cache).costs["averagepool_5"][str(INT8_PAIR)]
    assert (cost.entry, cost.compute, cost.exit, cost.kernel, cost.refusal) == (0, 2.0, 0, "Subgraph", "")
    product = made_up(lambda groups, codes: [node(one, 2.0, precision="boundary") for one in groups])
    assert costs(product, cache).costs["gemm_0"]["fp32"].refusal == "the runtime names no kernel for it"


def _floats_only(groups: frozenset[str], codes: bool) -> Sequence[Executed]:
    return [node(name, 1.0, kernel="AveragePool") for name in groups]


def test_a_layer_that_is_low_in_company_alone_is_not_refused(cache: CostCache) -> None:
    """OpenVINO runs a strided 1x1 convolution cut out of its model in fp32, and in int8 where it stands."""

    def ran(groups: frozenset[str], codes: bool) -> Sequence[Executed]:
        return [
            node(name, 0.25 if name == GEMMS[0] else 2.0, precision="int8" if name == GEMMS[0] else "fp32")
            if codes
            else node(name, 1.0 if name == GEMMS[0] else 2.0)
            for name in groups
        ]

    table = costs(made_up(ran), cache, INT8_STATIC)
    alone, in_company = (table.costs[name][str(INT8_STATIC)] for name in GEMMS)
    assert (alone.compute, alone.refusal) == (0.25, "")
    assert in_company.refusal == ""
    assert in_company.compute == pytest.approx(0.5), "a quarter of its fp32 time, as its like"


def test_a_scheme_in_which_no_layer_runs_is_refused(cache: CostCache) -> None:
    table = costs(made_up(lambda groups, codes: [node(name, 1.0) for name in groups]), cache, INT8_STATIC)
    assert all("ran it in fp32" in table.costs[name][str(INT8_STATIC)].refusal for name in GEMMS)
