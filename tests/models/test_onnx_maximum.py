"""Quantisers behind a maximum over an axis, as convolutional nets over text have them: right on OpenVINO, too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from builders import Array
from conversion import OPENVINO, TARGET, converted, error, run
from exported_models import F, model, node
from fewbits.targets.protocol import Target

CHANNELS, STEPS = 16, 9
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return (RANDOM.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def text_convolutions(maximum: str, *, squeezed: bool, ways: str = "ab") -> onnx.ModelProto:
    """Convolutions, the maximum of each over all steps, all side by side, and a classifier."""
    nodes = []
    for way in ways:
        nodes += [node("Conv", f"x k{way}", f"c{way}"), node("Relu", f"c{way}", f"r{way}")]
        if maximum == "GlobalMaxPool":
            nodes.append(node(maximum, f"r{way}", f"m{way}"))
        else:
            nodes.append(node(maximum, f"r{way} two", f"m{way}", keepdims=int(squeezed)))
        if squeezed:
            nodes.append(node("Squeeze", f"m{way} two", f"s{way}"))
    read = [f"{'s' if squeezed else 'm'}{way}" for way in ways]
    joined = [node("Concat", " ".join(read), "h", axis=1)] if len(ways) > 1 else []
    return model(
        [*nodes, *joined, node("MatMul", f"{'h' if joined else read[0]} w", "y")],
        [("x", F, ("batch", CHANNELS, STEPS))],
        [("y", F, ("batch", 5))],
        ka=normal(CHANNELS, CHANNELS, 2),
        kb=normal(CHANNELS, CHANNELS, 3),
        w=normal(len(ways) * CHANNELS, 5),
        two=np.array([2]),
    )


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
@pytest.mark.parametrize("low", [{"makes_y"}, {"makes_h", "makes_y"}, None], ids=str)
@pytest.mark.parametrize(("maximum", "squeezed"), [("GlobalMaxPool", True), ("ReduceMax", True), ("ReduceMax", False)])
def test_it_stays_the_maximum(target: Target, low: set[str] | None, maximum: str, squeezed: bool) -> None:
    proto = text_convolutions(maximum, squeezed=squeezed)
    # Values below 1/2, which are zeros without their scale.
    inputs = {"x": 0.3 * RANDOM.standard_normal((8, CHANNELS, STEPS)).astype(np.float32)}
    _, plan, artifact = converted(proto, inputs, low, target=target)
    assert "makes_y" in plan.low
    assert error(run(artifact, inputs, target), run(proto, inputs, target)) < 0.03


@pytest.mark.parametrize("low", [{"makes_y"}, None], ids=str)
@pytest.mark.parametrize(("maximum", "squeezed"), [("GlobalMaxPool", True), ("ReduceMax", True), ("ReduceMax", False)])
def test_so_does_a_single_one(low: set[str] | None, maximum: str, squeezed: bool) -> None:
    proto = text_convolutions(maximum, squeezed=squeezed, ways="a")
    inputs = {"x": 0.3 * RANDOM.standard_normal((8, CHANNELS, STEPS)).astype(np.float32)}
    _, plan, artifact = converted(proto, inputs, low, target=OPENVINO)
    assert "makes_y" in plan.low
    assert error(run(artifact, inputs, OPENVINO), run(proto, inputs, OPENVINO)) < 0.03


def test_the_limit_changes_no_code() -> None:
    """The same file, which ONNX Runtime computes right with and without it."""
    proto = text_convolutions("ReduceMax", squeezed=False, ways="a")
    inputs = {"x": RANDOM.standard_normal((8, CHANNELS, STEPS)).astype(np.float32)}
    _, _, artifact = converted(proto, inputs, {"makes_y"}, target=OPENVINO)
    limited = onnx.load_model_from_string(artifact.content)
    # Far beyond the range as well.
    for factor in (1, 10):
        large = {"x": factor * inputs["x"]}
        (wanted,) = run(limited, large).values()
        plain = onnx.ModelProto()
        plain.CopyFrom(limited)
        for one in plain.graph.node:
            if one.op_type == "Min":
                one.op_type = "Identity"
                del one.input[1:]
        assert sum(one.op_type == "Min" for one in limited.graph.node) == 1
        assert np.array_equal(run(plain, large)["y"], wanted)
