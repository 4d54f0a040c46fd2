"""LSTM layers with ranges found at every call: they load, run on integers, and are close."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from builders import Array
from conversion import OPENVINO, TARGET, converted, error, precisions, refusal, run
from exported_models import F, model, node
from fewbits.data.batches import Batch
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import (
    BF16,
    INT8_CHANNEL,
    INT8_DYNAMIC,
    INT8_TENSOR,
    INT8_WEIGHT,
    UINT8_TENSOR,
    Scheme,
)
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.models.onnx_recurrent import matrix_codes
from fewbits.plan import Choice, Plan

TIME, BATCH, WIDTH, HIDDEN = 7, 4, 16, 24
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return (RANDOM.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def lstm(*, directions: int = 1, state: str = "", read: str = "y h c", lengths: str = "") -> onnx.ModelProto:
    """One LSTM whose results are outputs; `state` is "given" (inputs) or "made" (as torch's exporter makes it)."""
    direction = {"direction": "bidirectional"} if directions == 2 else {}
    shape = (directions, "batch", HIDDEN)
    first, inputs = [], [("x", F, ("time", "batch", WIDTH))]
    if state == "given":
        inputs += [("h0", F, shape), ("c0", F, shape)]
    if state == "made":
        first = [
            node("Shape", "x", "sizes"),
            node("Slice", "sizes one two", "samples"),
            node("Concat", "count samples hidden", "shape", axis=0),
            node("ConstantOfShape", "shape", "h0"),
        ]
    if lengths == "given":
        inputs.append(("lengths", onnx.TensorProto.INT32, ("batch",)))
    states = {"": "- -", "given": "h0 c0", "made": "h0 h0"}[state]
    layer = node("LSTM", f"x w r b {'lengths' if lengths else '-'} {states}", read, hidden_size=HIDDEN, **direction)
    given = {"y": ("y", F, ("time", directions, "batch", HIDDEN)), "h": ("h", F, shape), "c": ("c", F, shape)}
    gates = 4 * HIDDEN
    return model(
        [*first, layer],
        inputs,
        [given[name] for name in read.split() if name in given],
        w=normal(directions, gates, WIDTH),
        r=normal(directions, gates, HIDDEN),
        b=normal(directions, 2 * gates),
        one=np.array([1]),
        two=np.array([2]),
        count=np.array([directions]),
        hidden=np.array([HIDDEN]),
    )


def inputs_of(proto: onnx.ModelProto, time: int = TIME, batch: int = BATCH) -> Mapping[str, Array]:
    sizes = {"time": time, "batch": batch}
    found: dict[str, Array] = {}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [one.dim_value or sizes[one.dim_param] for one in dims]
        if value.name == "lengths":
            found[value.name] = np.full(shape, time, np.int32)
        else:
            found[value.name] = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return found


@pytest.mark.parametrize("state", ["", "given", "made"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("read", ["y h c", "- h -", "y"])
def test_it_runs_on_integers(directions: int, state: str, read: str) -> None:
    proto = lstm(directions=directions, state=state, read=read)
    inputs = inputs_of(proto)
    opened, plan, artifact = converted(proto, inputs, scheme=INT8_DYNAMIC)
    (only,) = plan.low
    result = onnx.load_model_from_string(artifact.content)
    onnx.checker.check_model(result, full_check=True)
    assert not any(one.op_type == "LSTM" for one in result.graph.node)
    assert precisions(opened, artifact, inputs)[only] == "int8"
    assert 1e-4 < error(run(artifact, inputs), run(proto, inputs)) < 0.03
    # Another length and number of samples.
    other = inputs_of(proto, 11, 2)
    assert error(run(artifact, other), run(proto, other)) < 0.03


def test_one_scale_for_a_direction_is_coarser() -> None:
    proto = lstm(directions=2)
    inputs, opened = inputs_of(proto), open_model(proto)
    (name,) = (one.name for one in group(opened.graph))
    errors = []
    for weight in (INT8_CHANNEL, INT8_TENSOR):
        scheme = Scheme(weight, UINT8_TENSOR, dynamic=True)
        artifact = opened.converted(Plan(opened.sha256, {name: Choice(str(scheme), "")}, {}, TARGET.name))
        errors.append(error(run(artifact, inputs), run(proto, inputs)))
    assert errors[0] < errors[1] < 0.05


@pytest.mark.parametrize("weight", [INT8_CHANNEL, INT8_TENSOR])
def test_codes_stand_for_the_matrix(weight: ScaledFormat) -> None:
    matrix = np.asarray(normal(2, 12, 5), np.float32)
    matrix[0, 3] = 0
    codes, scale = matrix_codes(matrix, weight)
    assert (codes.dtype, codes.shape) == (np.int8, (2, 5, 12))
    assert scale.shape == ((2, 12) if weight is INT8_CHANNEL else (2,))
    decoded = codes.astype(np.float32) * (scale[:, None, :] if weight is INT8_CHANNEL else scale[:, None, None])
    step = scale[:, None, :] if weight is INT8_CHANNEL else scale[:, None, None]
    assert (np.abs(decoded - matrix.transpose(0, 2, 1)) <= 0.51 * step).all()


def test_its_size_is_a_quarter() -> None:
    proto = lstm()
    _, _, artifact = converted(proto, inputs_of(proto), scheme=INT8_DYNAMIC)
    assert artifact.size < 0.5 * proto.ByteSize()


def test_it_is_cut_out_with_its_states() -> None:
    proto = lstm(directions=2, state="made", read="- h -")
    opened, inputs = open_model(proto), inputs_of(proto)
    (one,) = group(opened.graph)
    assert (one.kind, one.operands, one.output) == (Kind.LSTM, ("x", "h0", "h0"), "h")
    (values,) = opened.observe([Batch(dict(inputs))], one.operands)
    cut = opened.regions([one], {name: array.shape for name, array in values.items()})
    got = run(cut.model.original(), {name: values[operand] for name, operand in cut.inputs.items()})
    assert np.allclose(next(iter(got.values())), np.abs(run(proto, inputs)["h"]), atol=1e-5)


def test_what_is_refused() -> None:
    proto = lstm()
    (name,) = (one.name for one in open_model(proto).graph.nodes if one.op == "LSTM")
    assert refusal(proto, name, INT8_DYNAMIC) == ""
    assert "ranges found at every call" in refusal(proto, name)
    assert "ranges found at every call" in refusal(proto, name, BF16)
    opened = open_model(proto)
    (one,) = group(opened.graph)
    assert {scheme for scheme in OPENVINO.menu(opened.graph, one).schemes if not scheme.is_fp32} == {INT8_WEIGHT}
    assert INT8_DYNAMIC not in {each.scheme for each in OPENVINO.menu(opened.graph, one).refusals}


@pytest.mark.parametrize("directions", [1, 2])
def test_lengths_may_depend_on_the_data(directions: int) -> None:
    proto = lstm(directions=directions, lengths="given", state="given")
    inputs = dict(inputs_of(proto)) | {"lengths": np.array([3, TIME, 1, 5], np.int32)}
    opened, plan, artifact = converted(proto, inputs, scheme=INT8_DYNAMIC)
    (only,) = plan.low
    assert precisions(opened, artifact, inputs)[only] == "int8"
    got, wanted = run(artifact, inputs), run(proto, inputs)
    assert 1e-4 < error(got, wanted) < 0.03
    # What lies behind the end of a sequence is zero in both.
    assert not got["y"][3:, :, 0].any()
    assert not wanted["y"][3:, :, 0].any()
