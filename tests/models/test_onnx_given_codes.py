"""Codes of weights that a plan names: what the converted model computes with is what they stand for, exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from builders import CASES, Array, Net
from conversion import OPENVINO, TARGET, error, planned, run
from fewbits.codes import name_of
from fewbits.errors import PlanError
from fewbits.formats.granularity import Group as Block
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import dequantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import (
    INT4_BLOCKS,
    INT4_OTHER_BLOCKS,
    INT4_SMOOTHED,
    INT8_CHANNEL,
    INT8_DYNAMIC,
    INT8_STATIC,
    INT8_WEIGHT,
    Scheme,
)
from fewbits.graph import Kind
from fewbits.grouping import Group, group
from fewbits.models import open_model
from fewbits.models.protocol import Model
from fewbits.plan import Choice, Plan
from fewbits.smoothing import parse, text
from fewbits.targets.protocol import Target
from odd_models import finish

DEPTH = 128
LARGE = np.arange(0, DEPTH, 32)


def clipped(weight: Array) -> QTensor[Array]:
    """Codes of `weight`, outputs first, with three quarters of its range: others than those to nearest."""
    nearest = quantize(weight, INT8_CHANNEL)
    return quantize(weight, INT8_CHANNEL, scale=nearest.scale * np.float32(0.75))


def rows(model: Model, made: Group) -> Array:
    weight, node = model.weight(made.weight), model.graph.node[made.name]
    return weight if made.kind is Kind.CONV or node.attributes.get("transB", 0) else np.ascontiguousarray(weight.T)


def stored(proto: onnx.ModelProto) -> dict[bytes, Array]:
    """All int8 constants by their bytes."""
    arrays = [onnx.numpy_helper.to_array(one) for one in proto.graph.initializer]
    return {array.tobytes(): array for array in arrays if array.dtype == np.int8 and array.ndim > 1}


CODED = [
    ("gemm_transposed", INT8_STATIC, TARGET),
    ("gemm_plain", INT8_STATIC, OPENVINO),
    ("mlp_gelu", INT8_STATIC, TARGET),
    ("mlp_gelu", INT8_DYNAMIC, TARGET),
    ("mlp_gelu", INT8_WEIGHT, OPENVINO),
    ("pooled_classifier", INT8_STATIC, TARGET),
]


@pytest.mark.parametrize(("case", "scheme", "target"), CODED, ids=lambda one: str(one)[:24])
def test_the_file_holds_them(case: str, scheme: Scheme, target: Target) -> None:
    proto = CASES[case].model(0)
    model, inputs = open_model(proto), CASES[case].inputs(16, 0)
    plan = planned(model, inputs, target=target, scheme=scheme)
    found = {
        made.name: clipped(rows(model, made))
        for made in group(model.graph)
        if made.name in plan.low and made.weight and not _has_norm(model, made)
    }
    assert found
    named = replace(plan, codes={made: name_of(codes) for made, codes in found.items()})
    knowing = model.knowing({name_of(codes): codes for codes in found.values()})
    content = onnx.load_from_string(knowing.converted(named).content)
    held = stored(content)
    for codes in found.values():
        across = np.ascontiguousarray(codes.codes.T) if codes.codes.ndim == 2 else codes.codes
        assert codes.codes.tobytes() in held or across.tobytes() in held
    # Clipped as they are, they are still close to what the model computes.
    assert error(run(knowing.converted(named), inputs, target), run(proto, inputs)) < 0.3


def _has_norm(model: Model, made: Group) -> bool:
    return any(model.graph.node[name].kind is Kind.BATCH_NORM for name in made.nodes)


def test_outputs_are_those_of_the_values() -> None:
    proto = CASES["mlp_gelu"].model(0)
    model, inputs = open_model(proto), CASES["mlp_gelu"].inputs(16, 0)
    plan = planned(model, inputs, scheme=INT8_DYNAMIC)
    (first, *_) = [made for made in group(model.graph) if made.name in plan.low and made.weight]
    codes = clipped(rows(model, first))
    named = replace(plan, choices={first.name: Choice(str(INT8_DYNAMIC), "")}, codes={first.name: name_of(codes)})
    for initializer in proto.graph.initializer:
        if initializer.name == first.weight:
            initializer.CopyFrom(onnx.numpy_helper.from_array(dequantize(codes).T.copy(), first.weight))
    found = run(model.knowing({name_of(codes): codes}).converted(named), inputs)
    assert error(found, run(proto, inputs)) < 0.01


def test_codes_of_another_shape_are_refused() -> None:
    model, inputs = open_model(CASES["gemm_transposed"].model(0)), CASES["gemm_transposed"].inputs(16, 0)
    plan = planned(model, inputs)
    made = next(made for made in group(model.graph) if made.weight)
    codes = clipped(rows(model, made)[:, :8].copy())
    named = replace(plan, codes={made.name: name_of(codes)})
    with pytest.raises(PlanError, match=r"codes for the weight of .* another model"):
        model.knowing({name_of(codes): codes}).converted(named)


def uneven() -> Array:
    """Rows of which a few channels are far larger than the rest."""
    x = np.random.default_rng(1).standard_normal((64, DEPTH)).astype(np.float32)
    x[:, LARGE] *= 30
    return x


def net(*, norm: bool) -> onnx.ModelProto:
    made = Net()
    read = made.add("LayerNormalization", "x", made.positive(DEPTH), made.small(DEPTH), axis=-1) if norm else "x"
    return finish(made, made.linear(read, DEPTH, 16), x=("batch", DEPTH))


def with_factors(model: Model, scheme: Scheme) -> Plan:
    made = next(made for made in group(model.graph) if made.weight)
    factors = text(np.where(np.isin(np.arange(DEPTH), LARGE), 3.0, 1.0))
    plan = Plan(model.sha256, {made.name: Choice(str(scheme), "")}, {}, target=TARGET.name)
    return replace(plan, scaling={made.operands[0]: factors})


@pytest.mark.parametrize("scheme", INT4_SMOOTHED, ids=str)
def test_factors_make_large_inputs_lose_less(scheme: Scheme) -> None:
    proto = net(norm=False)
    model, inputs = open_model(proto), {"x": uneven()}
    exact = run(proto, inputs)
    plain = with_factors(model, replace(scheme, smoothed=False))
    better = error(run(model.converted(with_factors(model, scheme)), inputs), exact)
    assert better < 0.8 * error(run(model.converted(plain), inputs), exact)


def test_factors_fold_into_a_norm_that_nobody_else_reads() -> None:
    for norm, multiplications in ((True, 0), (False, 1)):
        proto = net(norm=norm)
        model = open_model(proto)
        content = onnx.load_from_string(model.converted(with_factors(model, INT4_SMOOTHED[0])).content)
        assert [node.op_type for node in content.graph.node].count("Mul") == multiplications
        assert error(run(content, {"x": uneven()}), run(proto, {"x": uneven()})) < 0.15


def test_static_codes_and_weights_alone_have_factors_of_their_own() -> None:
    """Two products read one tensor, one smoothed for static codes, one scaled for its weight alone."""
    made = Net()
    y = made.add("Add", made.linear("x", DEPTH, 16), made.linear("x", DEPTH, 16))
    proto = finish(made, y, x=("batch", DEPTH))
    model, inputs = open_model(proto), {"x": uneven()}
    first, second = [one.name for one in group(model.graph) if one.weight]
    small, large = (text(np.where(np.isin(np.arange(DEPTH), LARGE), size, 1.0)) for size in (2.0, 16.0))
    left = uneven() / parse(large)
    plan = Plan(
        model.sha256,
        {
            first: Choice(str(replace(INT8_STATIC, smoothed=True)), ""),
            second: Choice(str(replace(INT4_BLOCKS, smoothed=True)), ""),
        },
        {"x.smoothed": (float(left.min()), float(left.max()))},
        target=TARGET.name,
        smoothing={"x": large},
        scaling={"x": small},
    )
    assert Plan.from_json(plan.to_json()) == plan
    assert error(run(model.converted(plan), inputs), run(proto, inputs)) < 0.1
    for without in (replace(plan, smoothing={}), replace(plan, scaling={})):
        with pytest.raises(PlanError, match="no factors to smooth"):
            model.converted(without)


@pytest.mark.parametrize("scheme", [*INT4_OTHER_BLOCKS, *INT4_SMOOTHED], ids=str)
def test_every_size_of_block_is_written_and_run(scheme: Scheme) -> None:
    format = scheme.weight
    assert isinstance(format, ScaledFormat)
    assert isinstance(format.granularity, Block)
    model = open_model(net(norm=False))
    content = onnx.load_from_string(model.converted(with_factors(model, scheme)).content)
    (node,) = [node for node in content.graph.node if node.op_type == "MatMulNBits"]
    attributes = {one.name: one.i for one in node.attribute}
    assert attributes["block_size"] == format.granularity.size
    assert len(node.input) == (4 if format.asymmetric else 3)
