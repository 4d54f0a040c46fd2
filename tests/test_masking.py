"""Which input says what is padding, from what the graph does with it."""

from __future__ import annotations

import pytest
from onnx import TensorProto

from builders import CASES, Net
from fewbits.masking import padding_mask
from fewbits.models import open_model


def test_it_is_found_whatever_it_is_called() -> None:
    proto = CASES["transformer"].model(0)
    assert padding_mask(open_model(proto).graph) == "attention_mask"
    for given in proto.graph.input:
        given.name = "q" if given.name == "attention_mask" else given.name
    for node in proto.graph.node:
        node.input[:] = ["q" if name == "attention_mask" else name for name in node.input]
    assert padding_mask(open_model(proto).graph) == "q"


@pytest.mark.parametrize("case", sorted(set(CASES) - {"transformer"}))
def test_models_without_padding_have_none(case: str) -> None:
    found = padding_mask(open_model(CASES[case].model(0)).graph)
    assert not found or "mask" in found


def test_what_looks_up_rows_is_none() -> None:
    """Positions of tokens are whole numbers of the same shape, and meet the scores by way of a table."""
    net = Net()
    tokens = (TensorProto.INT64, ("batch", 6))
    bias = net.add("Gather", net.weight(6, 6, fan_in=1), "places")
    y = net.add("Softmax", net.add("Add", bias, net.add("Unsqueeze", net.linear("x", 8, 6), net.axes(1))), axis=-1)
    proto = net.model({"x": (TensorProto.FLOAT, ("batch", 8)), "places": tokens}, {"y": (y, ("batch", 6, 6))})
    assert padding_mask(open_model(proto).graph) == ""


def test_of_two_that_could_be_it_none_is() -> None:
    net = Net()
    scores = net.add("Unsqueeze", net.linear("x", 8, 6), net.axes(1))
    for name in ("a", "b"):
        bias = net.add("Mul", net.add("Cast", name, to=TensorProto.FLOAT), net.number(-1e4))
        scores = net.add("Add", scores, net.add("Unsqueeze", bias, net.axes(1)))
    tokens = (TensorProto.INT64, ("batch", 6))
    inputs = {"x": (TensorProto.FLOAT, ("batch", 8)), "a": tokens, "b": tokens}
    proto = net.model(inputs, {"y": (net.add("Softmax", scores, axis=-1), ("batch", 1, 6))})
    assert padding_mask(open_model(proto).graph) == ""
