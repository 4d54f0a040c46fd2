from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest

import builders
from exported_models import F, model, node
from fewbits.costs.correction import Correction
from fewbits.costs.key import RegionCost
from fewbits.costs.table import CostTable
from fewbits.flow.allocating import BYTES, SECONDS, Costing
from fewbits.flow.job import Job
from fewbits.flow.site import Site
from fewbits.formats.scheme import BF16, FP32, INT8_SYMMETRIC_PAIR, Scheme
from jobs import job, opened, site

Drawn = tuple[Job, Site]


@pytest.fixture(scope="module", params=["residual", "concat", "squeeze_excite", "transformer"])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """A structure whose costs are random numbers, some of the conversions a little below zero as differences of
    measured times are."""
    case = builders.CASES[request.param]
    one = job(opened(case.model(0), case.inputs(70, 0)), tmp_path_factory.mktemp("job"))
    random = Random(1)
    costs = {
        name: {
            str(scheme): RegionCost(
                random.uniform(-1, 9), random.uniform(5, 50), random.uniform(-1, 9), "", "", "", "2026-01-01"
            )
            for scheme in schemes
        }
        for name, schemes in site(one).space.schemes.items()
    }
    return one, replace(site(one), costs=CostTable("onnxruntime:cpu", costs))


def choices(costing: Costing, count: int) -> list[dict[str, str]]:
    random = Random(2)
    return [{name: random.choice(options) for name, options in costing.options.items()} for _ in range(count)]


def test_the_parts_of_a_plan_add_up_to_its_seconds(drawn: Drawn) -> None:
    """Whatever is chosen: what the correction scales is all there is, and nothing counts twice."""
    costing = Costing(*drawn)
    seconds = costing.seconds(Correction())
    for choice in choices(costing, 40):
        parts = costing.parts(choice, 0.0).predicted
        assert sum(parts.values()) == pytest.approx(seconds.value(choice))
        assert all(part >= 0 for part in parts.values())


def test_a_correction_scales_each_part_and_adds_the_rest(drawn: Drawn) -> None:
    costing = Costing(*drawn)
    factors = {"fp32": 0.5, "codes": 2.0, "conversions": 3.0, "dynamic": 0.0}
    seconds = costing.seconds(Correction(factors, rest=7.0))
    for choice in choices(costing, 40):
        parts = costing.parts(choice, 0.0).predicted
        expected = 7.0 + sum(factors.get(name, 1.0) * part for name, part in parts.items())
        assert seconds.value(choice) == pytest.approx(expected)


def test_within_one_domain_nothing_is_converted_between_groups(drawn: Drawn) -> None:
    costing = Costing(*drawn)
    paid = []
    for crossing in costing.seconds(Correction()).boundaries:
        for before in costing.options[crossing.first]:
            for after in costing.options[crossing.second]:
                cost = crossing.cost(before, after)
                assert cost == 0 or _domain(before) != _domain(after)
                paid += [cost] if _domain(before) != _domain(after) else []
    assert any(paid)


def _domain(option: str) -> str:
    scheme = Scheme.parse(option)
    return "codes" if scheme.is_static else option if scheme.is_cast else "float"


def test_a_plan_names_what_leaves_fp32_and_the_rest_is_fp32(drawn: Drawn) -> None:
    costing = Costing(*drawn)
    name = costing.names[0]
    low = costing.options[name][1]
    whole = dict.fromkeys(costing.names, "fp32") | {name: low}
    assert costing.parts({name: low}, 1.5) == costing.parts(whole, 1.5)
    assert costing.parts({}, 1.5).measured == 1.5


def test_what_was_not_measured_costs_nothing_and_harms_nothing(tmp_path: Path) -> None:
    one = job(opened(builders.residual(), builders.images(70)), tmp_path)
    costing = Costing(one, site(one))
    allocation = costing.allocation({}, Correction())
    assert allocation.names == ("harm", SECONDS, BYTES)
    for choice in choices(costing, 10):
        values = allocation.values(choice)
        assert (values["harm"], values[SECONDS]) == (0, 0)


def test_two_readers_of_one_tensor_share_its_conversion(tmp_path: Path) -> None:
    """As long as both have it done: each pays a half."""
    one = job(opened(builders.concat_of_convs(), builders.images(70)), tmp_path)
    costing = Costing(one, _flat(one))
    both = {"conv_0": "w:int8r/channel a:uint8/tensor", "conv_1": "w:int8r/channel a:uint8/tensor"}
    single = {"conv_0": both["conv_0"]}
    # Entry 1 each, shared; exits 10 each, to the concat in fp32.
    assert costing.parts(single, 0.0).predicted["conversions"] == pytest.approx(0.5 + 10)
    assert costing.parts(both, 0.0).predicted["conversions"] == pytest.approx(1 + 20)
    joined = both | {"concat_2": "w:int8r/tensor a:uint8/tensor"}
    # Between codes nothing is converted, only behind the concat.
    assert costing.parts(joined, 0.0).predicted["conversions"] == pytest.approx(1 + 10)


def _flat(one: Job) -> Site:
    def cost(scheme: Scheme) -> RegionCost:
        return RegionCost(1.0 * scheme.is_static, 5.0, 10.0 * scheme.is_static, "", "", "", "2026-01-01")

    costs: Mapping[str, Mapping[str, RegionCost]] = {
        name: {str(scheme): cost(scheme) for scheme in schemes} for name, schemes in site(one).space.schemes.items()
    }
    return replace(site(one), costs=CostTable("onnxruntime:cpu", costs))


def test_bytes_are_those_of_the_weights(tmp_path: Path) -> None:
    one = job(opened(builders.mlp_gelu(), builders.features(70)), tmp_path)
    costing = Costing(one, site(one))
    size = costing.bytes()
    weights = 2 * builders.FEATURES * builders.FEATURES + 2 * builders.FEATURES * builders.CLASSES
    products = [group.name for group in one.groups if group.is_product]
    floats = dict.fromkeys(costing.names, "fp32")
    assert size.value(floats) == 4 * weights
    assert size.value(floats | dict.fromkeys(products, "bf16")) == 2 * weights
    assert size.value(floats | dict.fromkeys(products, "w:int8r/channel a:uint8/tensor")) == weights
    assert weights / 2 < size.value(floats | dict.fromkeys(products, "w:int4r/g32@0")) <= weights * 0.75


def test_the_products_of_an_attention_are_cast_together_where_one_kernel_runs_both(tmp_path: Path) -> None:
    """OpenVINO runs an attention of which one product is cast in pieces; with codes for the scores and floats behind
    it is one kernel. Inside it nothing is converted."""
    case = builders.CASES["transformer"]
    one = job(opened(case.model(0), case.inputs(70, 0), target="auto"), tmp_path)
    onnxruntime, openvino = (Costing(one, one.site(name)) for name in ("onnxruntime:cpu", "openvino:cpu"))
    assert onnxruntime.together == ()
    pair, *_ = openvino.together
    kinds = {group.name: group for group in one.groups}
    assert all(kinds[name].is_product and not kinds[name].weight for name in pair)
    seconds = openvino.seconds(Correction())
    codes = str(INT8_SYMMETRIC_PAIR)
    floats = dict.fromkeys(openvino.names, str(FP32))

    def cost(*schemes: str) -> float:
        return seconds.value(floats | dict(zip(pair, schemes, strict=True)))

    assert max(cost(codes, codes), cost(codes, str(FP32)), cost(str(BF16), str(BF16))) < 1
    assert min(cost(str(BF16), codes), cost(str(FP32), str(BF16)), cost(codes, str(BF16))) >= 1


def test_nothing_is_converted_inside_an_attention(tmp_path: Path) -> None:
    case = builders.CASES["transformer"]
    one = job(opened(case.model(0), case.inputs(70, 0), target="auto"), tmp_path)
    at = one.site("openvino:cpu")
    priced = {
        name: {
            str(scheme): RegionCost(*((0.0, 9.0, 0.0) if scheme.is_fp32 else (1.0, 5.0, 1.0)), "", "", "", "2026-01-01")
            for scheme in schemes
        }
        for name, schemes in at.space.schemes.items()
    }
    costing = Costing(one, replace(at, costs=CostTable(at.name, priced)))
    pair, *_ = costing.together
    choice = dict.fromkeys(costing.names, "fp32")
    conversions = costing.parts({**choice, **dict.fromkeys(pair, "bf16")}, 0.0).predicted["conversions"]
    # Queries, keys and values in, at half the seconds of a product's two operands each; the mixture out.
    plain = costing.parts(choice, 0.0).predicted["conversions"]
    assert conversions - plain == pytest.approx(2.5)


def tied(*more: onnx.NodeProto) -> onnx.ModelProto:
    """A table and the product that shares it."""
    return model(
        [
            node("Gather", "table x", "rows"),
            node("Relu", "rows", "h"),
            node("Transpose", "table", "turned", perm=[1, 0]),
            node("MatMul", "h turned", "y"),
            *more,
        ],
        [("x", onnx.TensorProto.INT64, ("batch", "words"))],
        [("y", F, ("batch", "words", 50)), *[("z", F, ("batch", "words", 32))] * bool(more)],
        table=np.ones((50, 32), np.float32),
    )


def test_what_two_groups_share_is_stored_once_until_both_have_it_in_codes(tmp_path: Path) -> None:
    one = job(opened(tied(), {"x": np.zeros((70, 4), np.int64)}), tmp_path)
    size = Costing(one, site(one)).bytes()
    weights = 50 * 32
    low, alone = "w:int8r/channel", "w:int8r/channel a:uint8/tensor"

    def value(table: str, product: str) -> float:
        return size.value({"makes_rows": table, "makes_y": product})

    assert value("fp32", "fp32") == 4 * weights
    assert value(low, "fp32") == value("fp32", alone) == 5 * weights
    assert value(low, alone) == 2 * weights
    assert value("w:uint4/channel", alone) == 1.5 * weights


def test_what_somebody_else_keeps_is_saved_by_nobody(tmp_path: Path) -> None:
    """The table is added to as well, so no codes take its place."""
    one = job(opened(tied(node("Gather", "table x", "z")), {"x": np.zeros((70, 4), np.int64)}), tmp_path)
    costing = Costing(one, site(one))
    assert costing.names == ("makes_y",)
    assert costing.bytes().value({"makes_y": "fp32"}) == 0
    assert costing.bytes().value({"makes_y": "w:int8r/channel a:uint8/tensor"}) == 50 * 32


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_both_matrices_of_a_recurrent_layer_count(tmp_path: Path, operator: str, gates: int) -> None:
    proto = model(
        [node(operator, "x w r", "y", hidden_size=64)],
        [("x", F, ("time", "batch", 32))],
        [("y", F, ("time", 1, "batch", 64))],
        w=np.ones((1, gates * 64, 32), np.float32),
        r=np.ones((1, gates * 64, 64), np.float32),
    )
    one = job(opened(proto, {"x": np.zeros((70, 5, 32), np.float32)}), tmp_path)
    size = Costing(one, site(one)).bytes()
    weights = gates * 64 * 96
    assert size.value({"makes_y": "fp32"}) == 4 * weights
    assert size.value({"makes_y": "w:int8r/channel"}) == weights
