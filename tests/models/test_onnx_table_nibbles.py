"""Embeddings of four bits: exactly the rows of the decoded table, for every sort of index, in little space."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from builders import Array
from conversion import OPENVINO, TARGET, converted, refusal, run
from exported_models import F, model, node
from fewbits.errors import PlanError
from fewbits.formats.quantize import dequantize, quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import INT4_ROW_BLOCKS, INT4_ROWS, INT8_WEIGHT, Scheme
from fewbits.models import open_model
from fewbits.models.onnx_nibbles import nibbles
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan
from fewbits.targets.protocol import Target

ROWS = 50
WORDS = ("batch", "words")
SYMMETRIC_ROWS = Scheme.parse("w:int4r/channel")
SYMMETRIC_BLOCKS = Scheme.parse("w:int4r/g16")
SCHEMES = (INT4_ROWS, INT4_ROW_BLOCKS, SYMMETRIC_ROWS, SYMMETRIC_BLOCKS)
BOTH = pytest.mark.parametrize("target", [TARGET, OPENVINO], ids=lambda target: target.name)


def table(width: int = 96) -> Array:
    """Rows of very different sizes and off centre, one of zeros, as padding has, one of a single number."""
    rng = np.random.default_rng(0)
    found = (rng.standard_normal((ROWS, width)) + 0.3) * rng.uniform(1e-4, 10, (ROWS, 1))
    found[0], found[7] = 0, 2.5
    return found.astype(np.float32)


def lookup(
    stored: Array, dtype: int = TensorProto.INT64, opset: int = 20, shape: tuple[str, ...] = WORDS
) -> onnx.ModelProto:
    made = model(
        [node("Gather", "table x", "h"), node("Neg", "h", "y")],
        [("x", dtype, shape)],
        [("y", F, (*shape, stored.shape[1]))],
        table=stored,
    )
    made.opset_import[0].version = opset
    return made


def stored_in(proto: onnx.ModelProto, scheme: Scheme, target: Target) -> Artifact:
    """`proto` with its table in `scheme`, whether or not the menu has it."""
    opened = open_model(proto)
    return opened.converted(Plan(opened.sha256, {"makes_h": Choice(str(scheme), "")}, {}, target.name))


def decoded(stored: Array, scheme: Scheme) -> Array:
    assert isinstance(scheme.weight, ScaledFormat)
    return dequantize(quantize(stored, scheme.weight))


@BOTH
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_it_gives_the_rows_of_the_decoded_table(target: Target, scheme: Scheme, dtype: type[np.integer]) -> None:
    stored = table()
    proto = lookup(stored, TensorProto.INT64 if dtype is np.int64 else TensorProto.INT32)
    artifact = stored_in(proto, scheme, target)
    onnx.checker.check_model(onnx.load_model_from_string(artifact.content), full_check=True)
    # The padding row, one of equal numbers, the last one, counted from either end, repeated, in any order.
    rows = np.array([[0, 7, ROWS - 1, -1, -ROWS, 3], [3, 3, 0, -43, 12, 0]], dtype)
    assert np.array_equal(-run(artifact, {"x": rows}, target)["y"], decoded(stored, scheme)[rows])


@BOTH
@pytest.mark.parametrize("width", [1, 2, 7, 31, 32, 33, 64])
@pytest.mark.parametrize("scheme", [INT4_ROWS, SYMMETRIC_ROWS], ids=str)
def test_a_row_has_any_width(target: Target, scheme: Scheme, width: int) -> None:
    stored, rows = table(width), np.arange(ROWS)[None]
    artifact = stored_in(lookup(stored), scheme, target)
    assert np.array_equal(-run(artifact, {"x": rows}, target)["y"], decoded(stored, scheme)[rows])


@BOTH
@pytest.mark.parametrize("shape", [(), ("few",), ("a", "b", "c")])
@pytest.mark.parametrize("scheme", [INT4_ROWS, INT4_ROW_BLOCKS], ids=str)
def test_indices_have_any_shape(target: Target, scheme: Scheme, shape: tuple[str, ...]) -> None:
    stored = table()
    artifact = stored_in(lookup(stored, shape=shape), scheme, target)
    for sizes in ((2, 3, 4), (1, 1, 1), (5, 1, 2)):
        rows = np.random.default_rng(0).integers(-ROWS, ROWS, sizes[: len(shape)])
        assert np.array_equal(-run(artifact, {"x": np.asarray(rows)}, target)["y"], decoded(stored, scheme)[rows])


@BOTH
@pytest.mark.parametrize(("scheme", "bits"), [(INT4_ROWS, 4 + 40 / 96), (INT4_ROW_BLOCKS, 4 + 40 / 32)])
def test_it_takes_half_a_byte_for_a_number(target: Target, scheme: Scheme, bits: float) -> None:
    stored = np.tile(table(), (40, 1))
    proto = lookup(stored)
    _, plan, artifact = converted(proto, {"x": np.zeros((1, 1), np.int64)}, target=target, scheme=scheme)
    assert plan.low == {"makes_h"}
    # A zero point has a byte where it is looked up, and half of one behind a DequantizeLinear.
    most = stored.size * bits / 8 + 2000
    assert stored.size / 2 < artifact.size <= most


def test_blocks_are_closer_than_rows_and_zero_points_than_none() -> None:
    stored = table()

    def error(scheme: Scheme) -> float:
        off = decoded(stored, scheme) - stored
        return float(np.mean((off / np.maximum(np.abs(stored).max(1, keepdims=True), 1e-9)) ** 2))

    assert error(INT8_WEIGHT) < error(INT4_ROW_BLOCKS) < error(INT4_ROWS) < error(SYMMETRIC_ROWS)


@BOTH
@pytest.mark.parametrize("opset", [13, 17])
def test_it_is_written_for_old_operator_sets(target: Target, opset: int) -> None:
    stored, rows = table(), np.arange(ROWS)[None]
    artifact = stored_in(lookup(stored, opset=opset), INT4_ROW_BLOCKS, target)
    assert np.array_equal(-run(artifact, {"x": rows}, target)["y"], decoded(stored, INT4_ROW_BLOCKS)[rows])
    # ONNX Runtime's form has no type of four bits, and leaves the operator set as it was.
    version = onnx.load_model_from_string(artifact.content).opset_import[0].version
    assert version == opset if target is TARGET else version >= 21


def test_a_byte_holds_the_codes_of_both_halves() -> None:
    stored = np.array([[-7, 1, 2, 7]], np.float32)
    assert isinstance(SYMMETRIC_ROWS.weight, ScaledFormat)
    found = nibbles(stored, SYMMETRIC_ROWS.weight)
    # Codes -7, 1, 2, 7 are 1, 9, 10, 15 without a sign.
    assert found.codes.tolist() == [[1 | 10 << 4, 9 | 15 << 4]]
    assert (found.scales.tolist(), found.zero_points.tolist()) == ([[1.0]], [[8]])
    assert found.codes.dtype == np.uint8


@pytest.mark.parametrize("tied", ["MatMul", "Gemm"])
@pytest.mark.parametrize("scheme", [INT8_WEIGHT, INT4_ROWS, INT4_ROW_BLOCKS], ids=str)
def test_a_classifier_may_share_the_table(tied: str, scheme: Scheme) -> None:
    """The rows are those of the decoded table, whatever the classifier has; both in codes, the floats are gone."""
    stored = np.tile(table(), (8, 1))
    proto = classifier(stored, tied)
    assert refusal(proto, "makes_h", scheme) == ""
    inputs = {"x": np.arange(12).reshape(2, 6)}
    opened = open_model(proto)
    wanted = run(proto, inputs)["y"]

    def under(**schemes: Scheme) -> tuple[int, Array]:
        choices = {f"makes_{name}": Choice(str(one), "") for name, one in schemes.items()}
        artifact = opened.converted(Plan(opened.sha256, choices, {}, OPENVINO.name))
        return artifact.size, run(artifact, inputs, OPENVINO)["y"]

    size, rows = under(h=scheme)
    assert size > proto.ByteSize()
    exact = decoded(stored, scheme)[inputs["x"]].reshape(-1, 96) @ stored.T if scheme != INT8_WEIGHT else wanted
    assert np.allclose(rows.reshape(exact.shape), exact, rtol=1e-3, atol=0.02 * np.abs(wanted).max())
    size, both = under(h=scheme, y=INT8_WEIGHT)
    assert size < 0.56 * proto.ByteSize()
    assert np.allclose(both.reshape(wanted.shape), wanted, atol=0.2 * np.abs(wanted).max())


def classifier(stored: Array, tied: str) -> onnx.ModelProto:
    """Rows of the table, and their products with all of them."""
    last = (
        [node("Transpose", "table", "turned", perm=[1, 0]), node("MatMul", "h turned", "y")]
        if tied == "MatMul"
        else [node("Reshape", "h flat", "k"), node("Gemm", "k table", "y", transB=1)]
    )
    return model(
        [node("Gather", "table x", "h"), *last],
        [("x", TensorProto.INT64, WORDS)],
        [("y", F, ("a", len(stored)) if tied == "Gemm" else (*WORDS, len(stored)))],
        table=stored,
        flat=np.array([-1, stored.shape[1]]),
    )


def test_a_table_that_others_read_stays() -> None:
    twice = model(
        [node("Gather", "table x", "h"), node("Gather", "table x", "k"), node("Add", "h k", "y")],
        [("x", TensorProto.INT64, WORDS)],
        [("y", F, (*WORDS, 96))],
        table=table(),
    )
    added = model(
        [node("Gather", "table x", "h"), node("Add", "h table", "y")],
        [("x", TensorProto.INT64, (ROWS,))],
        [("y", F, (ROWS, 96))],
        table=table(),
    )
    for proto in (twice, added):
        assert "table is read by others" in refusal(proto, "makes_h", INT4_ROWS)


def test_what_is_refused() -> None:
    narrow = lookup(table(40))
    assert refusal(narrow, "makes_h", INT4_ROWS) == ""
    assert "40 elements" in refusal(narrow, "makes_h", INT4_ROW_BLOCKS)
    for text in (
        "w:int4r/g16@0",
        "w:int8r/g32",
        "w:int4r/tensor",
        "w:int2/channel",
        "w:fp8_e4m3/channel",
        "w:int4r/g3",
    ):
        with pytest.raises(PlanError, match=r"only|elements"):
            stored_in(lookup(table()), Scheme.parse(text), TARGET)
