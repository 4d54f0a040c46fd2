"""Where the size of the file counts, tables and recurrent layers are stored in codes on either runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import fewbits
from exported_models import F, model, node
from timing import Timing

WORDS, WIDTH, HIDDEN, CLASSES = 400, 32, 64, 6


def reader(operator: str, gates: int) -> onnx.ModelProto:
    """Words to classes: a table, a recurrent layer, a product."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[-1]), np.float32)

    return model(
        [
            node("Gather", "table x", "rows"),
            node("Transpose", "rows", "turned", perm=[1, 0, 2]),
            node(operator, "turned w r b", "- last", hidden_size=HIDDEN),
            node("Squeeze", "last axis", "state"),
            node("MatMul", "state v", "y"),
        ],
        [("x", TensorProto.INT64, ("batch", "words"))],
        [("y", F, ("batch", CLASSES))],
        table=normal(WORDS, WIDTH),
        w=normal(1, gates * HIDDEN, WIDTH),
        r=normal(1, gates * HIDDEN, HIDDEN),
        b=normal(1, 2 * gates * HIDDEN),
        axis=np.array([0]),
        v=normal(HIDDEN, CLASSES),
    )


@pytest.mark.parametrize(("operator", "gates", "target"), [("GRU", 3, "onnxruntime"), ("RNN", 1, "openvino")])
def test_all_of_it_gets_small(timed: Timing, operator: str, gates: int, target: str) -> None:
    proto = reader(operator, gates)
    words = np.random.default_rng(1).integers(0, WORDS, (64, 7))
    result = fewbits.tune(
        proto, {"x": words}, evaluate="cosine", max_loss=0.01, objective="size", target=target, threads=1
    )
    assert result.outcome == fewbits.Outcome.MET
    chosen = {name: result.plan.scheme(name) for name in ("makes_rows", "makes_last")}
    assert all(scheme.is_weight_only for scheme in chosen.values())
    assert result.artifact.size < 0.33 * proto.ByteSize()


def test_a_table_and_the_classifier_that_shares_it_get_small_together(timed: Timing) -> None:
    """Either alone would only add to the file."""
    rng = np.random.default_rng(0)
    proto = model(
        [
            node("Gather", "table x", "rows"),
            node("Relu", "rows", "h"),
            node("Transpose", "table", "turned", perm=[1, 0]),
            node("MatMul", "h turned", "y"),
        ],
        [("x", TensorProto.INT64, ("batch", "words"))],
        [("y", F, ("batch", "words", WORDS))],
        table=rng.standard_normal((WORDS, WIDTH)).astype(np.float32),
    )
    words = rng.integers(0, WORDS, (64, 7))
    result = fewbits.tune(
        proto, {"x": words}, evaluate="cosine", max_loss=0.01, objective="size", target="onnxruntime", threads=1
    )
    assert result.outcome == fewbits.Outcome.MET
    assert result.plan.low == {"makes_rows", "makes_y"}
    assert result.artifact.size < 0.6 * proto.ByteSize()
