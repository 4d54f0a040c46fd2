"""Gemm in all its forms, in every scheme that takes a constant matrix, on the runtimes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from builders import FEATURES, features
from conversion import OPENVINO, TARGET, converted, error, precisions, refusal, run
from exported_models import MATRIX, VECTOR, F, X, model, node
from fewbits.errors import PlanError
from fewbits.formats.scheme import BF16, INT4_BLOCKS, INT8_BLOCKS, INT8_DYNAMIC, INT8_WEIGHT, Scheme
from fewbits.models import open_model
from fewbits.plan import Choice, Plan
from fewbits.targets.protocol import Target


def gemm(*, bias: bool = True, act: str = "Tanh", **attributes: float) -> onnx.ModelProto:
    """Two Gemm nodes, of which the first has `attributes`, with `act` between them."""
    first = MATRIX if attributes.get("transB") else np.ascontiguousarray(MATRIX.T)
    nodes = [
        node("Gemm", "x w c" if bias else "x w", "h", **attributes),
        node(act, "h", "k"),
        node("Gemm", "k v", "y"),
    ]
    return model(nodes, w=first, v=MATRIX, **({"c": VECTOR} if bias else {}))


FORMS: dict[str, dict[str, float]] = {
    "plain": {},
    "transposed": {"transB": 1},
    "alpha": {"alpha": 0.5},
    "beta": {"beta": 3.0},
    "all": {"alpha": 2.0, "beta": 0.25, "transB": 1},
}
PAIRS: list[tuple[Target, Scheme | None]] = [
    (TARGET, None),
    (TARGET, INT8_DYNAMIC),
    (TARGET, INT8_BLOCKS),
    (OPENVINO, None),
    (OPENVINO, BF16),
    (OPENVINO, INT8_WEIGHT),
]


@pytest.mark.parametrize(("target", "scheme"), PAIRS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_every_scheme(form: str, bias: bool, target: Target, scheme: Scheme | None) -> None:
    proto, inputs = gemm(bias=bias, **FORMS[form]), features(16)
    _, plan, artifact = converted(proto, inputs, target=target, scheme=scheme)
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    assert len(plan.low) == 2
    assert error(run(artifact, inputs, target), run(proto, inputs, target)) < 0.03


@pytest.mark.parametrize("form", FORMS)
def test_it_runs_in_integers(form: str) -> None:
    proto, inputs = gemm(act="Relu", **FORMS[form]), features(16)
    for scheme in (None, INT8_DYNAMIC):
        model, plan, artifact = converted(proto, inputs, scheme=scheme)
        assert {name for name, ran in precisions(model, artifact, inputs).items() if ran == "int8"} == plan.low
        assert len(plan.low) == 2


def test_four_bits_of_a_gemm() -> None:
    proto, inputs = gemm(transB=1), features(16)
    _, plan, artifact = converted(proto, inputs, scheme=INT4_BLOCKS)
    result = onnx.load_model_from_string(artifact.content)
    assert [one.op_type for one in result.graph.node].count("MatMulNBits") == len(plan.low) == 2
    assert len(artifact.content) < 0.45 * len(proto.SerializeToString())
    assert 0.01 < error(run(artifact, inputs), run(proto, inputs)) < 0.2


def test_a_bias_that_is_computed() -> None:
    proto = model([node("Neg", "z", "c"), node("Gemm", "x w c", "y", beta=1.0)], [X, ("z", F, (FEATURES,))], w=MATRIX)
    inputs = {**features(8), "z": VECTOR}
    for scheme in (INT8_DYNAMIC, INT8_BLOCKS):
        _, plan, artifact = converted(proto, inputs, scheme=scheme)
        assert plan.low
        assert error(run(artifact, inputs), run(proto, inputs)) < 0.03
    assert "bias is computed" in refusal(proto, "makes_y")


def test_what_is_refused() -> None:
    scaled = model([node("Neg", "z", "c"), node("Gemm", "x w c", "y", beta=0.5)], [X, ("z", F, (FEATURES,))], w=MATRIX)
    assert "scales a bias that is computed" in refusal(scaled, "makes_y", INT8_DYNAMIC)
    opened = open_model(scaled)
    with pytest.raises(PlanError, match="scales a bias"):
        opened.converted(Plan(opened.sha256, {"makes_y": Choice(str(INT8_DYNAMIC), "")}, {}, TARGET.name))
