"""A small transformer from end to end: what comes back can be served in place of what went in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import builders
import fewbits
from fewbits.outcome import Outcome
from fewbits.plan import Plan
from fewbits.record import RunRecord

FEATURES = 192  # wide enough for int8 to pay, so that the measurements settle early
TOKENS = 64
SAMPLES = 96
MAX_LOSS = 0.02


def run(content: bytes, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["logits"], inputs)[0]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows, in double precision: independent of the metric under test."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    return builders.transformer(features=FEATURES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformer")


@pytest.fixture(scope="module")
def result(original: onnx.ModelProto, folder: Path) -> fewbits.Result:
    """Tuned for size, so that what comes out does not depend on how busy the machine is."""
    return fewbits.tune(
        original.SerializeToString(),
        builders.tokens(SAMPLES, length=TOKENS),
        evaluate="cosine",
        max_loss=str(MAX_LOSS),
        objective="size",
        target="onnxruntime",
        threads=1,
        out=folder / "run",
    )


def test_it_is_smaller_and_within_the_budget_on_samples_never_seen(
    original: onnx.ModelProto, result: fewbits.Result
) -> None:
    inputs = builders.tokens(64, seed=1, length=TOKENS)
    tuned = run(result.artifact.content, inputs)
    assert result.outcome is Outcome.MET
    assert result.artifact.size < len(original.SerializeToString()) / 2
    # Twice the budget: another sample of sentences than the one that was accepted on.
    assert cosine(tuned, run(original.SerializeToString(), inputs)) > 1 - 2 * MAX_LOSS


@pytest.mark.parametrize(("samples", "length"), [(1, 1), (3, 5), (2, 40)])
def test_batch_and_sequence_stay_dynamic(
    original: onnx.ModelProto, result: fewbits.Result, samples: int, length: int
) -> None:
    inputs = builders.tokens(samples, seed=2, length=length)
    inputs["attention_mask"][:, 0] = 1
    assert run(result.artifact.content, inputs).shape == (samples, builders.CLASSES)
    tuned = onnx.load_from_string(result.artifact.content)
    assert [value.SerializeToString() for value in (*tuned.graph.input, *tuned.graph.output)] == [
        value.SerializeToString() for value in (*original.graph.input, *original.graph.output)
    ]


def test_padding_changes_no_more_than_rounding(original: onnx.ModelProto, result: fewbits.Result) -> None:
    short = builders.tokens(4, seed=3, length=8)
    short["attention_mask"][:] = 1
    longer = {name: np.pad(array, ((0, 0), (0, 6))) for name, array in short.items()}
    expected = run(original.SerializeToString(), short)
    quantised = np.abs(run(result.artifact.content, short) - expected).max()
    # Sums in another order may move a value to the next code, so that the shift is at most of quantisation's size.
    assert np.abs(run(result.artifact.content, longer) - run(result.artifact.content, short)).max() <= quantised


def test_the_checker_accepts_it(result: fewbits.Result) -> None:
    onnx.checker.check_model(onnx.load_from_string(result.artifact.content), full_check=True)


def test_every_linear_layer_is_in_the_table_with_a_reason(result: fewbits.Result) -> None:
    rows = {row.name: row for row in result.record.groups}
    kept = [row for row in rows.values() if row.scheme == "fp32"]
    assert len(rows) > len(kept) > 0 or not kept
    assert all(row.reason for row in kept)
    assert set(result.plan.low) == {row.name for row in rows.values()} - {row.name for row in kept}


def test_softmax_layer_norm_and_gelu_stay_float(result: fewbits.Result) -> None:
    graph = onnx.load_from_string(result.artifact.content).graph
    maker = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Softmax", "LayerNormalization", "Erf"):
            made_by = [maker[name].op_type for name in node.input if name in maker]
            assert "DequantizeLinear" not in made_by


def test_the_run_directory_holds_what_was_returned(result: fewbits.Result, folder: Path) -> None:
    run_folder = folder / "run"
    assert (run_folder / "model.onnx").read_bytes() == result.artifact.content
    assert Plan.load(run_folder / "plan.json") == result.plan
    assert RunRecord.from_json((run_folder / "run.json").read_bytes()) == result.record


def test_the_plan_gives_the_same_model_again(original: onnx.ModelProto, result: fewbits.Result) -> None:
    assert fewbits.open_model(original).knowing(result.codes).converted(result.plan).content == result.artifact.content


def test_layer_norm_as_one_node_or_spelled_out_leaves_the_same_groups_to_tune(original: onnx.ModelProto) -> None:
    spelled_out = fewbits.inspect(builders.transformer(features=FEATURES, decomposed=True))
    one_node = fewbits.inspect(original)
    kinds = [
        Counter(group.kind for group in found.groups if group.is_product and group.name in found.space.coded)
        for found in (spelled_out, one_node)
    ]
    assert kinds[0] == kinds[1]
    # Two layers of query, key, value, output and two of the MLP, two products of activations, and the classifier.
    assert kinds[0].total() == 2 * (4 + 2 + 2) + 1
