"""Padding weighs nothing: what stands at padded positions changes no moments, no means, no harm and no codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from builders import CASES, VOCABULARY, Array, Net, tokens
from fewbits.data import open_data
from fewbits.flow.calibrate import outputs
from fewbits.flow.job import Job
from fewbits.flow.pricing import price
from fewbits.flow.ranking import harms
from fewbits.flow.real_positions import mask_of, real_positions, without_padding
from fewbits.flow.remedies.moments import Moments, key_of, moments_of
from fewbits.flow.remedies.refining import refine
from fewbits.formats.scheme import INT8_DYNAMIC
from fewbits.graph import Kind
from fewbits.models import open_model
from fewbits.plan import Choice, Plan
from fewbits.targets import open_target
from fewbits.verify.acceptance import Objective
from jobs import job, opened, site

LENGTH = 12


def padded(samples: int, seed: int = 0, *, fill: int = 0) -> dict[str, Array]:
    """Sentences of which most is padding, with the token `fill` there."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(LENGTH) < rng.integers(2, 6, (samples, 1))).astype(np.int64)
    ids = np.where(mask > 0, rng.integers(1, VOCABULARY, (samples, LENGTH)), fill)
    return {"input_ids": ids, "attention_mask": mask}


def of_tokens(*, hidden: bool = False) -> onnx.ModelProto:
    """A transformer; with `hidden` states as a second output."""
    proto = CASES["transformer"].model(0)
    if hidden:
        last = [node for node in proto.graph.node if node.op_type == "LayerNormalization"][-1].output[0]
        proto.graph.output.append(
            onnx.helper.make_tensor_value_info(last, TensorProto.FLOAT, ("batch", "sequence", 32))
        )
    return proto


def ready(folder: Path, *, fill: int = 0, hidden: bool = False) -> Job:
    data = padded(60, fill=fill)
    made = opened(of_tokens(hidden=hidden), data, calibration=padded(40, 1, fill=fill), objective=Objective.SIZE)
    return job(made, folder)


def moments(one: Job) -> dict[str, Moments]:
    groups = [group for group in one.groups if group.weight and group.kind in (Kind.MATMUL, Kind.GEMM)]
    return {key: found for part in moments_of(one, groups) for key, found in part.items()}


def test_moments_are_those_of_sentences_without_padding(tmp_path: Path) -> None:
    one = ready(tmp_path)
    assert one.mask == "attention_mask"
    group = next(made for made in one.groups if made.weight and made.kind is Kind.MATMUL)
    (found,) = moments_of(one, [group])
    seen = found[key_of(group)]
    data = padded(40, 1)
    rows = []
    for ids, mask in zip(data["input_ids"], data["attention_mask"], strict=True):
        alone = {"input_ids": ids[None, : mask.sum()], "attention_mask": mask[None, : mask.sum()]}
        ((values),) = one.model.observe(list(open_data(alone, one.model.inputs).batches(1)), [group.operands[0]])
        rows.append(values[group.operands[0]][0])
    whole = np.concatenate(rows).astype(np.float64)
    assert seen.fitted.count + seen.apart.count == len(whole)
    assert np.allclose(seen.fitted.total + seen.apart.total, whole.T @ whole, rtol=1e-4, atol=1e-3)


def test_what_stands_at_padded_positions_changes_no_moments(tmp_path: Path) -> None:
    plain, filled = (moments(ready(tmp_path, fill=fill)) for fill in (0, 7))
    assert plain.keys() == filled.keys()
    for key, one in plain.items():
        assert np.allclose(one.fitted.total, filled[key].fitted.total, rtol=1e-4, atol=1e-3), key


def test_without_a_mask_it_would(tmp_path: Path) -> None:
    plain, filled = (moments(replace(ready(tmp_path, fill=fill), mask="")) for fill in (0, 7))
    assert not all(np.allclose(one.fitted.total, filled[key].fitted.total, rtol=0.1) for key, one in plain.items())


def test_codes_are_as_good_whatever_the_padding(tmp_path: Path) -> None:
    def shares(fill: int) -> list[float]:
        one = ready(tmp_path, fill=fill)
        one = refine(replace(one, sites=price(one)))
        assert one.codes
        return [remedy.share for remedies in one.remedies.values() for remedy in remedies]

    assert shares(0) == pytest.approx(shares(7), rel=1e-3)


def test_harm_is_that_of_real_positions(tmp_path: Path) -> None:
    """The hidden states at padded positions are an output; nobody reads them."""

    def harm(fill: int) -> float:
        one = ready(tmp_path, fill=fill, hidden=True)
        name = next(group.name for group in one.groups if group.weight and group.kind is Kind.MATMUL)

        def plan(schemes: object) -> Plan:
            return Plan(one.model.sha256, {name: Choice(str(INT8_DYNAMIC), "")}, {}, target=site(one).name)

        return harms(one, {name: (INT8_DYNAMIC,)}, plan).harm[name][str(INT8_DYNAMIC)].value

    # Ranges of dynamic codes see the padding, so the two differ a little.
    assert harm(0) == pytest.approx(harm(7), rel=0.3)


def test_outputs_are_left_at_real_positions(tmp_path: Path) -> None:
    one = ready(tmp_path, hidden=True)
    data = open_data(padded(8), one.model.inputs)
    for batch, values in zip(data.batches(4), outputs(one, one.original, data), strict=True):
        logits, states = values.values()
        assert len(logits) == 4
        assert len(states) == batch.inputs["attention_mask"].sum()


def test_a_mask_the_other_way_round_is_none() -> None:
    """1 at padded positions, as some frameworks have it: positions with 0 matter."""
    net = Net()
    bias = net.add("Mul", net.add("Cast", "padding", to=TensorProto.FLOAT), net.number(-1e4))
    x = net.add("Gather", net.weight(VOCABULARY, 32), "input_ids", axis=0)
    y = net.attention(x, net.add("Unsqueeze", bias, net.axes(1, 2)), 32, 4)
    given = (TensorProto.INT64, ("batch", LENGTH))
    proto = net.model({"input_ids": given, "padding": given}, {"y": (y, ("batch", LENGTH, 32))})
    data = padded(16)
    turned = {"input_ids": data["input_ids"], "padding": 1 - data["attention_mask"]}
    model = open_model(proto)
    with open_target("onnxruntime", 1).open(model.original()) as session:
        assert mask_of(model.graph, session, open_data(turned, model.inputs)) == ""
        right = {"input_ids": data["input_ids"], "padding": data["attention_mask"]}
        assert mask_of(model.graph, session, open_data(right, model.inputs)) == ""


def test_nothing_is_padding_where_all_is_real() -> None:
    model = open_model(of_tokens())
    data = tokens(8)
    data["attention_mask"] = np.ones_like(data["attention_mask"])
    with open_target("onnxruntime", 1).open(model.original()) as session:
        assert mask_of(model.graph, session, open_data(data, model.inputs)) == ""


@pytest.mark.parametrize("mask", [[[1, 2]], [[0, 0]], [[-1, 1]]])
def test_what_says_it_in_another_way_says_nothing(mask: list[list[int]]) -> None:
    assert real_positions({"m": np.array(mask)}, "m") is None


def test_rows_of_positions_alone_are_left() -> None:
    real = np.array([[True, False], [True, True]])
    assert without_padding(np.arange(12).reshape(2, 2, 3), real).tolist() == [[0, 1, 2], [6, 7, 8], [9, 10, 11]]
    assert without_padding(np.arange(8).reshape(4, 2), real).tolist() == [[0, 1], [4, 5], [6, 7]]
    per_sample = np.arange(6).reshape(2, 3)
    assert without_padding(per_sample, real) is per_sample
