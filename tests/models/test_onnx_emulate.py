"""Emulated rounding: on the runtime, the values that the number formats have, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from builders import CASES, Net
from conversion import TARGET, run
from fewbits.data.batches import Array, Batch
from fewbits.errors import PlanError
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.affine import asymmetric, symmetric
from fewbits.formats.numerics.reference import fake_quantize
from fewbits.formats.numerics.scales import Scales
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import BF16, INT8_STATIC, Scheme, integers
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.onnx_emulate import rounded_weight
from fewbits.models.protocol import Model
from fewbits.plan import Choice, Plan

SIMULATED = "simulated:bops"
BITS = range(2, 9)


def emulation(model: Model, schemes: dict[str, Scheme], inputs: dict[str, Array]) -> Plan:
    """A plan that has `schemes`, with the ranges of `inputs`."""
    wanted = {name: Choice(str(scheme), "test") for name, scheme in schemes.items()}
    reads = sorted({tensor for one in group(model.graph) if one.name in schemes for tensor in one.operands})
    (values,) = model.observe([Batch(inputs)], reads)
    ranges = {name: (float(values[name].min()), float(values[name].max())) for name in reads}
    return Plan(model.sha256, wanted, ranges, SIMULATED)


def formatted(x: Array, format: ScaledFormat, low: float, high: float) -> Array:
    """`x` by the reference numerics, with scale and zero point of [low, high]."""
    assert isinstance(format.element, IntFormat)
    if format.element.signed:
        affine = symmetric(np.array(max(abs(low), abs(high)), np.float32), format.element)
    else:
        affine = asymmetric(low, high, format.element)
    shape = (1,) * x.ndim
    scales = Scales(affine.scale.reshape(shape), affine.zero_point.reshape(shape), np.ones((), np.float32))
    return fake_quantize(x, format, scales)


def multiplied(weight: Array) -> onnx.ModelProto:
    """``x @ weight``."""
    net = Net()
    return made(net, {"x": ("batch", weight.shape[0])}, net.add("MatMul", "x", net.constant(weight)))


def made(net: Net, inputs: Mapping[str, Sequence[int | str]], *outputs: str) -> onnx.ModelProto:
    """`net` with float inputs, and `outputs` of rank 2."""
    return net.model(
        {name: (TensorProto.FLOAT, shape) for name, shape in inputs.items()},
        {f"out_{place}": (inner, (f"rows_{place}", f"columns_{place}")) for place, inner in enumerate(outputs)},
    )


@given(
    bits=st.sampled_from(BITS),
    low=st.floats(-100, 0, width=32),
    high=st.floats(0, 100, width=32),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_an_activation_gets_the_values_of_its_format(bits: int, low: float, high: float, seed: int) -> None:
    # The product with 1 shows what it reads; halves of steps and values beyond the range are among them.
    model = open_model(multiplied(np.eye(4, dtype=np.float32)))
    (one,) = group(model.graph)
    scheme = integers(8, bits)
    plan = Plan(model.sha256, {one.name: Choice(str(scheme), "test")}, {"x": (low, high)}, SIMULATED)
    step = float(asymmetric(low, high, IntFormat(bits, signed=False)).scale)
    random = np.random.default_rng(seed)
    halves = (random.integers(-600, 600, (64, 4)) * np.float32(step / 2)).astype(np.float32)
    x = np.concatenate([halves, random.normal(0, max(high, -low, 1), (64, 4)).astype(np.float32)])
    (got,) = run(model.converted(plan), {"x": x}).values()
    assert isinstance(scheme.activation, ScaledFormat)
    assert np.array_equal(got, formatted(x, scheme.activation, low, high))


@pytest.mark.parametrize("bits", BITS)
def test_a_second_operand_that_is_an_activation_is_symmetric(bits: int) -> None:
    net = Net()
    model = open_model(made(net, {"x": (4, 4), "y": (4, 4)}, net.add("MatMul", "x", "y")))
    (one,) = group(model.graph)
    random = np.random.default_rng(bits)
    y = random.normal(0, 1, (4, 4)).astype(np.float32)
    scheme = integers(bits, 8, channels=False)
    inputs = {"x": np.eye(4, dtype=np.float32), "y": y}
    plan = emulation(model, {one.name: scheme}, inputs)
    # A step of 1, so that the ones stay ones.
    plan = replace(plan, ranges={**plan.ranges, "x": (0.0, 255.0)})
    (got,) = run(model.converted(plan), inputs).values()
    assert isinstance(scheme.weight, ScaledFormat)
    assert np.array_equal(got, formatted(y, scheme.weight, float(y.min()), float(y.max())))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_has_no_more_values_than_codes_in_each_channel(bits: int, axis: int) -> None:
    weight = np.random.default_rng(bits).normal(0, 1, (16, 200) if axis == 0 else (200, 16)).astype(np.float32)
    format = integers(bits, 8).weight
    assert isinstance(format, ScaledFormat)
    rounded = rounded_weight(weight, format, axis)
    for channel in np.moveaxis(rounded, axis, 0):
        values = np.unique(channel)
        assert len(values) <= 2**bits - 1
        steps = values / np.diff(values).min()
        assert np.allclose(steps, np.rint(steps), atol=1e-2)


def test_a_weight_in_few_bits_is_nearer_than_with_the_largest_magnitude_alone() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (8, 500)).astype(np.float32)
    for bits in (2, 3, 4):
        format = integers(bits, 8).weight
        assert isinstance(format, ScaledFormat)
        plain = fake_quantize(weight, format)
        error = np.square(rounded_weight(weight, format, 0) - weight).sum(axis=1)
        assert (error <= np.square(plain - weight).sum(axis=1)).all()
        assert error.sum() < 0.9 * np.square(plain - weight).sum()
    eight = integers(8, 8).weight
    assert isinstance(eight, ScaledFormat)
    assert np.array_equal(rounded_weight(weight, eight, 0), fake_quantize(weight, eight))


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = np.zeros((3, 5), np.float32)
    weight[1] = 1.5
    format = integers(2, 8).weight
    assert isinstance(format, ScaledFormat)
    assert np.array_equal(rounded_weight(weight, format, 0), weight)


@pytest.mark.parametrize("name", sorted(CASES))
def test_eight_bits_everywhere_stay_near_the_original(name: str) -> None:
    """Every structure, batch norms, transposed Gemm and attention among them, is written so that it runs."""
    case = CASES[name]
    model = open_model(case.model(0))
    inputs = case.inputs(8, 0)
    schemes = {
        one.name: integers(8, 8, channels=bool(one.weight))
        for one in group(model.graph)
        if one.is_product and any(scheme.is_static for scheme in TARGET.menu(model.graph, one).schemes)
    }
    if not schemes:
        pytest.skip("no product")
    artifact = model.converted(emulation(model, schemes, inputs))
    found = {node.op_type for node in onnx.load_model_from_string(artifact.content).graph.node}
    assert {"Div", "Round", "Clip", "Mul"} <= found
    assert not found & {"QuantizeLinear", "DequantizeLinear"}
    got, wanted = run(artifact, inputs), run(model.original(), inputs)
    for key, array in wanted.items():
        if array.dtype == np.float32:
            assert np.linalg.norm(got[key] - array) <= 0.1 * np.linalg.norm(array)


def test_a_tensor_is_rounded_once_for_all_that_read_it_alike_and_apart_for_others() -> None:
    net = Net()
    products = [net.add("MatMul", "x", net.constant(np.full((4, 4), 0.5, np.float32))) for _ in range(3)]
    model = open_model(made(net, {"x": (2, 4)}, *products))
    names = [one.name for one in group(model.graph)]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    schemes = dict(zip(names, (integers(8, 4), integers(4, 4), integers(8, 2)), strict=True))
    proto = onnx.load_model_from_string(model.converted(emulation(model, schemes, {"x": x})).content)
    assert [node.op_type for node in proto.graph.node].count("Round") == 2


def test_the_weights_in_the_file_are_the_rounded_ones() -> None:
    weight = np.random.default_rng(3).normal(0, 1, (4, 6)).astype(np.float32)
    model = open_model(multiplied(weight))
    (one,) = group(model.graph)
    x = np.ones((1, 4), np.float32)
    artifact = model.converted(emulation(model, {one.name: integers(2, 8)}, {"x": x}))
    stored = [numpy_helper.to_array(each) for each in onnx.load_model_from_string(artifact.content).graph.initializer]
    format = integers(2, 8).weight
    assert isinstance(format, ScaledFormat)
    assert any(np.array_equal(each, rounded_weight(weight, format, 1)) for each in stored)
    assert not any(np.array_equal(each, weight) for each in stored)


@pytest.mark.parametrize("scheme", [BF16, Scheme.parse("w:int8r/channel"), replace(INT8_STATIC, dynamic=True)])
def test_what_is_not_emulated_is_refused(scheme: Scheme) -> None:
    model = open_model(multiplied(np.ones((4, 6), np.float32)))
    (one,) = group(model.graph)
    plan = Plan(model.sha256, {one.name: Choice(str(scheme), "test")}, {"x": (0.0, 1.0)}, SIMULATED)
    with pytest.raises(PlanError, match="emulated are products with static integers"):
        model.converted(plan)


def test_a_missing_range_is_named() -> None:
    model = open_model(multiplied(np.ones((4, 6), np.float32)))
    (one,) = group(model.graph)
    plan = Plan(model.sha256, {one.name: Choice(str(integers(4, 4)), "test")}, {}, SIMULATED)
    with pytest.raises(PlanError, match="no range for the tensor x"):
        model.converted(plan)
