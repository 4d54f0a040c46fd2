"""Products that ONNX Runtime's optimiser fused give the same when they are apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from builders import CHANNELS, FEATURES, SIZE, features, images
from conversion import run
from exported_models import FILTERS, IMAGE, MATRIX, VECTOR, F, model, node
from fewbits.models.onnx_normalise import normalised

ACTIVATIONS: dict[str, list[float]] = {
    "Relu": [],
    "Sigmoid": [],
    "Tanh": [],
    "LeakyRelu": [0.2],
    "HardSigmoid": [0.3, 0.4],
    "Clip": [-0.25, 0.5],
}


def apart(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = ir.to_proto(normalised(proto, ""))
    onnx.checker.check_model(made, full_check=True)
    assert not any(one.domain for one in made.graph.node)
    return made


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_convolution(act: str, residual: bool) -> None:
    pads = [1, 1, 1, 1]
    fused = node(
        "FusedConv",
        "x w b z" if residual else "x w b",
        "y",
        domain="com.microsoft",
        activation=act,
        pads=pads,
        **({"activation_params": ACTIVATIONS[act]} if ACTIVATIONS[act] else {}),
    )
    first = [node("Conv", "x w", "z", pads=pads)] if residual else []
    shape = ("batch", CHANNELS, SIZE, SIZE)
    bias = np.linspace(-1, 1, CHANNELS, dtype=np.float32)
    proto = model([*first, fused], [IMAGE], [("y", F, shape)], domains=["com.microsoft"], w=FILTERS, b=bias)
    made = apart(proto)
    assert [one.name for one in made.graph.node if one.op_type == "Conv"][-1] == "makes_y"
    assert np.allclose(run(made, images(2))["y"], run(proto, images(2))["y"], atol=1e-5)


@pytest.mark.parametrize("act", [name for name in ACTIVATIONS if name != "Clip"])
def test_a_gemm(act: str) -> None:
    numbers = dict(zip(("activation_alpha", "activation_beta"), ACTIVATIONS[act], strict=False))
    fused = node("FusedGemm", "x w b", "y", domain="com.microsoft", activation=act, alpha=0.5, transB=1, **numbers)
    proto = model([fused], domains=["com.microsoft"], w=MATRIX, b=VECTOR)
    made = apart(proto)
    assert [one.op_type for one in made.graph.node] == ["Gemm", act]
    assert np.allclose(run(made, features(4))["y"], run(proto, features(4))["y"], atol=1e-5)


def test_an_activation_that_is_not_known_stays_fused() -> None:
    fused = node("FusedGemm", "x w b", "y", domain="com.microsoft", activation="Sparkle")
    made = normalised(model([fused], domains=["com.microsoft"], w=MATRIX, b=VECTOR), "")
    assert [one.op_type for one in made.graph] == ["FusedGemm"]
    assert made.graph.inputs[0].shape == ir.Shape(["batch", FEATURES])
