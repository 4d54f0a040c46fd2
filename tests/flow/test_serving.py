"""CPUs that cut sums of two products: 7 bits for weights where that can happen, and which layers it happens to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import builders
import fewbits
from builders import FEATURES, Array, Net
from conversion import TARGET, converted, error, planned, run
from fewbits.cli import saturation as command
from fewbits.errors import UsageError
from fewbits.flow.serving import in_seven_bits, parse_isa, saturation, suited
from fewbits.formats.scheme import BF16, FP32, INT8_DYNAMIC, INT8_SMOOTHED, INT8_STATIC, INT8_WEIGHT, Scheme
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.plan import Choice, Plan
from fewbits.saturation import Isa
from fewbits.smoothing import text
from jobs import opened
from timing import Timing

SEVEN = Scheme.parse("w:int7r/channel a:uint8/tensor")


def positive(samples: int = 64) -> dict[str, Array]:
    return {"x": np.abs(np.random.default_rng(0).standard_normal((samples, FEATURES))).astype(np.float32)}


def layer(*, large: bool) -> onnx.ModelProto:
    """A product whose neighbouring weights are all large, or of which every other one is zero."""
    net = Net()
    weight = np.ones((FEATURES, 6), np.float32)
    weight[1::2] = 1.0 if large else 0.0
    weight *= np.linspace(0.2, 1, 6, dtype=np.float32)
    return builders._feature_model(net, net.add("MatMul", "x", net.constant(weight)))


def test_only_codes_of_both_operands_change() -> None:
    assert in_seven_bits(INT8_STATIC) == SEVEN
    assert in_seven_bits(INT8_DYNAMIC) == Scheme.parse("w:int7r/channel a:uint8/tensor dynamic")
    assert all(in_seven_bits(one) == one for one in (FP32, BF16, INT8_WEIGHT, SEVEN))


@pytest.mark.parametrize("isa", [None, Isa.VNNI, Isa.AMX, Isa.ARM])
def test_other_cpus_keep_the_menu(isa: Isa | None) -> None:
    model = open_model(layer(large=True))
    (made,) = group(model.graph)
    menu = TARGET.menu(model.graph, made)
    assert suited(model, made, menu, isa) == menu


@pytest.mark.parametrize("isa", [Isa.AVX2, Isa.AVX512])
def test_seven_bits_only_where_pairs_could_be_cut(isa: Isa) -> None:
    for large in (True, False):
        model = open_model(layer(large=large))
        (made,) = group(model.graph)
        schemes = suited(model, made, TARGET.menu(model.graph, made), isa).schemes
        assert (SEVEN in schemes) == large
        assert (INT8_STATIC in schemes) != large


def test_a_depthwise_convolution_has_no_pairs() -> None:
    model = open_model(builders.depthwise_separable())
    stem, depthwise, _ = group(model.graph)
    menus = {made.name: suited(model, made, TARGET.menu(model.graph, made), Isa.AVX2) for made in group(model.graph)}
    assert INT8_STATIC in menus[depthwise.name].schemes
    assert SEVEN in menus[stem.name].schemes


def test_which_layers_are_cut_on_data(tmp_path: Path) -> None:
    for large in (True, False):
        proto = layer(large=large)
        _, plan, _ = converted(proto, positive())
        (alone,) = saturation(proto, plan)
        (row,) = saturation(proto, plan, positive())
        assert alone.possible == row.possible == large
        assert alone.observed == -1
        assert (row.observed > 0) == large
        text = command.describe((row,))
        assert ("tune with --serve-on avx2" in text) == large
    assert "nothing can saturate" in command.describe(())


def test_a_smoothed_product_is_looked_at_as_it_is_computed() -> None:
    """Factors that leave every other weight next to nothing leave no pair that could be cut."""
    proto, inputs = layer(large=True), positive()
    model = open_model(proto)
    (made,) = group(model.graph)
    factors = np.where(np.arange(FEATURES) % 2, 2.0**-10, 1.0)
    ranges = {"x": (0.0, 4.0), "x.smoothed": (0.0, 4096.0)}
    plain = Plan(model.sha256, {made.name: Choice(str(INT8_STATIC), "")}, ranges, smoothing={"x": text(factors)})
    smooth = replace(plain, choices={made.name: Choice(str(INT8_SMOOTHED), "")})
    (before,), (after,) = (saturation(proto, plan, inputs) for plan in (plain, smooth))
    assert before.possible
    assert before.observed > 0
    assert not after.possible
    assert after.observed == 0


def test_a_plan_with_seven_bits_is_safe_and_close() -> None:
    proto = builders.gemm()
    inputs = positive(200)
    model = open_model(proto)
    plan = planned(model, inputs)
    safe = replace(plan, choices={name: Choice(str(SEVEN), "") for name in plan.choices})
    assert not any(row.possible for row in saturation(proto, safe, inputs))
    assert error(run(model.converted(safe), inputs), run(proto, inputs)) < 0.03


@pytest.mark.parametrize("name", ["conv_bn_relu", "depthwise_separable", "transformer", "squeeze_excite"])
def test_any_plan_can_be_looked_at(name: str) -> None:
    case = builders.CASES[name]
    proto, inputs = case.model(0), case.inputs(16, 0)
    _, plan, _ = converted(proto, inputs)
    rows = saturation(proto, plan, inputs)
    assert rows
    assert all(row.observed == 0 for row in rows if not row.possible)


def test_tune_for_an_older_cpu(timed: Timing) -> None:
    proto = builders.gemm()
    result = fewbits.tune(
        proto, positive(400), evaluate="cosine", max_loss=0.5, target="onnxruntime", threads=1, serve_on="avx2"
    )
    assert str(SEVEN) in {choice.scheme for choice in result.plan.choices.values()}
    assert not any(row.possible for row in saturation(proto, result.plan))
    assert result.record.settings["serve on"] == "avx2"


def test_products_of_two_activations_run_with_seven_bits(timed: Timing) -> None:
    case = builders.CASES["transformer"]
    one = opened(case.model(0), case.inputs(70, 0))
    plan = planned(one.model, case.inputs(70, 0))
    pairs = {made.name for made in one.groups if made.is_product and not made.weight} & plan.low
    assert pairs
    choices = {name: Choice(str(in_seven_bits(plan.scheme(name))), "") for name in pairs}
    safe = Plan(one.model.sha256, {**plan.choices, **choices}, plan.ranges, plan.target)
    inputs = case.inputs(8, 1)
    assert error(run(one.model.converted(safe), inputs), run(case.model(0), inputs)) < 0.1


def test_an_unknown_cpu_is_refused() -> None:
    assert parse_isa("") is None
    assert parse_isa("AVX2") is Isa.AVX2
    with pytest.raises(UsageError, match="choose avx2, avx512, vnni, amx, arm"):
        parse_isa("sse")
