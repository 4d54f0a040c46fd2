"""Embeddings as codes with a scale per row: a quarter of the bytes, close, on both runtimes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from builders import CASES, Array, transformer
from conversion import OPENVINO, TARGET, converted, error, offered, refusal, run
from exported_models import F, model, node
from fewbits.data.batches import Batch
from fewbits.formats.scheme import BF16, INT4_ROW_BLOCKS, INT4_ROWS, INT8_BLOCKS, INT8_WEIGHT
from fewbits.graph import Kind
from fewbits.grouping import group
from fewbits.models import open_model
from fewbits.targets.protocol import Target

ROWS, WIDTH = 300, 16
RANDOM = np.random.default_rng(0)
# Rows of very different sizes, one of them of zeros.
TABLE = (RANDOM.standard_normal((ROWS, WIDTH)) * RANDOM.uniform(0.01, 10, (ROWS, 1))).astype(np.float32)
TABLE[5] = 0
WORDS = ("batch", "words")


def lookup(dtype: int = TensorProto.INT64, *more: onnx.NodeProto, **constants: Array) -> onnx.ModelProto:
    """Rows of the table, and whatever `more` makes of them; the first output is ``y``."""
    return model(
        [node("Gather", "table x", "h"), node("Neg", "h", "y"), *more],
        [("x", dtype, WORDS)],
        [("y", F, (*WORDS, WIDTH))],
        table=TABLE,
        **constants,
    )


def words(dtype: type[np.integer] = np.int64) -> dict[str, Array]:
    """Indices, of which some are counted from the end, as Gather allows."""
    return {"x": RANDOM.integers(-ROWS, ROWS, (4, 9)).astype(dtype)}


@pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_every_row_is_half_a_step_off_at_most(target: Target, dtype: type[np.integer]) -> None:
    proto = lookup(TensorProto.INT64 if dtype is np.int64 else TensorProto.INT32)
    inputs = words(dtype)
    opened, plan, artifact = converted(proto, inputs, target=target, scheme=INT8_WEIGHT)
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    assert plan.low == {"makes_h"}
    assert artifact.size < 0.4 * proto.ByteSize()
    got, wanted = run(artifact, inputs, target)["y"], run(proto, inputs, target)["y"]
    steps = np.abs(TABLE).max(axis=1, keepdims=True)[inputs["x"]] / 127
    assert (np.abs(got - wanted) <= 0.51 * steps).all()
    assert error({"y": got}, {"y": wanted}) < 0.02
    (one,) = (each for each in group(opened.graph) if each.kind is Kind.GATHER)
    assert (one.operands, one.weight) == (("x",), "table")


def test_it_is_cut_out_with_its_indices() -> None:
    opened, inputs = open_model(lookup()), words()
    (one,) = group(opened.graph)
    (values,) = opened.observe([Batch(inputs)], one.operands)
    cut = opened.regions([one], {name: array.shape for name, array in values.items()})
    (got,) = run(cut.model.original(), {name: values[operand] for name, operand in cut.inputs.items()}).values()
    rows = TABLE[inputs["x"]]
    assert np.allclose(got, rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9), atol=1e-5)


def test_a_whole_transformer_in_eight_bits() -> None:
    proto, inputs = transformer(), CASES["transformer"].inputs(4, 0)
    opened = open_model(proto)
    kinds = {one.name: one.kind for one in group(opened.graph)}
    tables = [name for name in offered(opened, OPENVINO, INT8_WEIGHT) if kinds[name] is Kind.GATHER]
    assert len(tables) == 1
    _, plan, artifact = converted(proto, inputs, target=OPENVINO, scheme=INT8_WEIGHT)
    assert set(tables) <= plan.low
    assert error(run(artifact, inputs, OPENVINO), run(proto, inputs, OPENVINO)) < 0.05


def test_what_is_refused() -> None:
    assert refusal(lookup(), "makes_h", INT8_WEIGHT) == ""
    opened = open_model(lookup())
    (one,) = group(opened.graph)
    for target in (TARGET, OPENVINO):
        found = target.menu(opened.graph, one)
        assert [scheme for scheme in found.schemes if not scheme.is_fp32] == [INT8_WEIGHT, INT4_ROWS]
        # Rows of 16 numbers have no blocks of 32.
        assert [each.scheme for each in found.refusals] == [INT4_ROW_BLOCKS]
    for scheme in (BF16, INT8_BLOCKS):
        assert scheme not in {each.scheme for each in TARGET.menu(opened.graph, one).refusals}


@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_no_table(axis: int) -> None:
    """Columns, a part of what was computed, and whole numbers."""
    columns = model(
        [node("Gather", "table x", "y", axis=1)],
        [("x", TensorProto.INT64, ("few",))],
        [("y", F, (ROWS, "few"))],
        table=TABLE,
    )
    computed = model(
        [node("Gather", "h x", "y", axis=axis)],
        [("x", TensorProto.INT64, ("few",)), ("h", F, ("a", "b"))],
        [("y", F, ("c", "d"))],
    )
    numbers = model(
        [node("Gather", "table x", "h", axis=axis), node("Cast", "h", "y", to=F)],
        [("x", TensorProto.INT64, ("few",))],
        [("y", F, ("c", "d"))],
        table=TABLE.astype(np.int64),
    )
    assert all(group(open_model(proto).graph) == () for proto in (columns, computed, numbers))
