"""Metrics over a split, and evaluate functions that behave or misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from fewbits.data import open_data
from fewbits.data.batches import Arrays, Dataset
from fewbits.errors import DataError, MetricError, WorkerError
from fewbits.evaluation import Direction
from fewbits.graph import Tensor
from fewbits.verify.evaluators import check_repeatable, open_evaluator

X = Tensor("x", "float32", ("N", 3))


def identity(inputs: Arrays) -> Arrays:
    return {"logits": inputs["x"], "mean": np.array(inputs["x"].mean()), "first": inputs["x"][:, :1]}


def shifted(inputs: Arrays) -> Arrays:
    return {"logits": np.roll(inputs["x"], 1, axis=1)}


@pytest.fixture
def split() -> Dataset:
    """Ten samples; the class is right for eight of them."""
    labels = np.arange(10) % 3
    x = np.eye(3, dtype=np.float32)[labels]
    return open_data((x, np.where(np.arange(10) < 8, labels, (labels + 1) % 3)), [X])


def both(inputs: Arrays) -> Arrays:
    return {**identity(inputs), "turned": np.roll(inputs["x"], 1, axis=1)}


def gives(result: object) -> Callable[..., object]:
    return lambda predict: result


class TestMetric:
    @pytest.mark.parametrize("batch", [1, 3, 10, 64])
    def test_the_score_does_not_depend_on_the_batch(self, split: Dataset, batch: int) -> None:
        scores = open_evaluator("accuracy", [X])(identity, split, batch)
        assert scores.value == 0.8
        assert scores.samples == 10
        assert scores.per_sample == (1.0,) * 8 + (0.0,) * 2

    def test_a_score_of_all_samples_together_has_what_it_is_made_from(self, split: Dataset) -> None:
        evaluator = open_evaluator("f1", [X])
        found = evaluator(identity, split, 3)
        assert found.per_sample == ()
        assert found == evaluator(identity, split, 10)
        assert found.pooled.metric == "f1"
        assert [row[0] for row in found.pooled.rows] == list(range(10))

    def test_the_original_is_read_once_per_split(self, split: Dataset) -> None:
        calls = []

        def original(inputs: Arrays) -> Arrays:
            calls.append(1)
            return identity(inputs)

        evaluator = open_evaluator("agreement", [X], original=original)
        assert evaluator.needs_reference
        assert evaluator(identity, split, 5).value == 1
        assert evaluator(shifted, split, 5).value == 0
        assert len(calls) == 2
        assert evaluator(identity, split.take([0, 1]), 5).samples == 2
        assert len(calls) == 3

    def test_no_labels(self) -> None:
        data = open_data(np.ones((2, 3)), [X])
        with pytest.raises(MetricError, match=r"accuracy needs labels.*'labels'.*cosine or agreement"):
            open_evaluator("accuracy", [X])(identity, data, 2)

    def test_no_original(self) -> None:
        with pytest.raises(MetricError, match="compares with the original model"):
            open_evaluator("cosine", [X])

    def test_outputs_by_name(self, split: Dataset) -> None:
        assert open_evaluator("accuracy", [X])(identity, split, 4).value == 0.8
        assert open_evaluator("accuracy", [X], output="turned")(both, split, 4).value == 0.2
        with pytest.raises(MetricError, match="no output 'logit'; it gives 'logits', 'mean', 'first'"):
            open_evaluator("accuracy", [X], output="logit")(identity, split, 4)
        with pytest.raises(MetricError, match=r"'mean' has shape \(\) for 4 samples.*'logits', 'first'"):
            open_evaluator("accuracy", [X], output="mean")(identity, split, 4)

    def test_an_empty_split(self, split: Dataset) -> None:
        with pytest.raises(MetricError, match="the split is empty"):
            open_evaluator("accuracy", [X])(identity, split.take([]), 4)

    def test_a_direction_that_contradicts_the_metric(self) -> None:
        with pytest.raises(MetricError, match="accuracy is higher-is-better"):
            open_evaluator("accuracy", [X], direction=Direction.LOWER)

    def test_ragged_samples(self) -> None:
        ids = Tensor("ids", "float32", ("N", "width"))
        data = open_data([np.ones((2, 3)), np.ones((3, 4))], [ids])
        evaluator = open_evaluator("cosine", [ids], original=lambda inputs: {"y": inputs["ids"]})
        assert evaluator(lambda inputs: {"y": inputs["ids"] * 2}, data, 4).value == pytest.approx(1)

    def test_unknown(self) -> None:
        with pytest.raises(MetricError, match="unknown metric 'speed'; The metrics are accuracy"):
            open_evaluator("speed", [X])


class TestFunction:
    def test_a_number(self, split: Dataset) -> None:
        evaluator = open_evaluator(gives(0.5), [X], direction=Direction.LOWER)
        assert not evaluator.uses_split
        assert evaluator.direction is Direction.LOWER
        scores = evaluator(identity, split, 4)
        assert (scores.value, scores.samples, scores.per_sample) == (0.5, 0, ())

    @pytest.mark.parametrize("result", [[1, 0], (1.0, 0.0), np.array([True, False]), np.array([1.0, 0.0], np.float32)])
    def test_per_sample_scores(self, split: Dataset, result: object) -> None:
        scores = open_evaluator(gives(result), [X])(identity, split, 4)
        assert (scores.value, scores.samples, scores.per_sample) == (0.5, 2, (1.0, 0.0))

    def test_what_predict_takes_and_gives(self, split: Dataset) -> None:
        def evaluate(predict: Callable[[object], Arrays]) -> float:
            x = np.ones((2, 3))  # float64: predict casts to the model's type
            assert predict(x)["logits"].dtype == np.float32
            np.testing.assert_array_equal(predict({"x": x})["logits"], predict(x)["logits"])
            return 1.0

        assert open_evaluator(evaluate, [X])(identity, split, 4).value == 1

    def test_predict_called_with_what_does_not_fit(self, split: Dataset) -> None:
        with pytest.raises(DataError, match="predict: input 'x' must have shape"):
            open_evaluator(lambda predict: predict(np.ones((2, 4))), [X])(identity, split, 4)
        with pytest.raises(MetricError, match="mapping from input name to array"):
            open_evaluator(lambda predict: predict(np.ones((2, 4))), [X, X])(identity, split, 4)

    def test_from_a_file(self, split: Dataset, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "import numpy as np\ndef score(predict):\n    return predict(np.ones((2, 3)))['logits'][:, 0]\n"
        )
        evaluator = open_evaluator(f"{tmp_path}/mine.py:score", [X])
        assert evaluator(identity, split, 4).per_sample == (1, 1)
        assert evaluator.name == f"{tmp_path}/mine.py:score"
        with pytest.raises(MetricError, match="has no function 'scor'"):
            open_evaluator(f"{tmp_path}/mine.py:scor", [X])

    def test_one_that_raises(self, split: Dataset) -> None:
        def broken(predict: object) -> float:
            raise ZeroDivisionError("no samples")

        with pytest.raises(
            MetricError, match="evaluate function broken raised ZeroDivisionError: no samples"
        ) as caught:
            open_evaluator(broken, [X])(identity, split, 4)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_a_failure_of_the_runtime_is_not_blamed_on_the_function(self, split: Dataset) -> None:
        def dead(inputs: Arrays) -> Arrays:
            raise WorkerError("the worker died")

        with pytest.raises(WorkerError):
            open_evaluator(lambda predict: predict(np.ones((1, 3))), [X])(dead, split, 4)

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (None, "returned None; it must return a number or one score per sample"),
            (float("nan"), "returned nan"),
            (float("inf"), "returned inf"),
            (np.array([1.0, np.nan]), "returned nan for sample 1"),
            ("0.9", "returned str '0.9'"),
            (True, "returned bool True"),
            ({"accuracy": 0.9}, "returned dict"),
            (object(), "returned object"),
            ([], r"shape \(0,\)"),
            (np.ones((2, 2)), r"shape \(2, 2\)"),
        ],
    )
    def test_what_is_no_score(self, split: Dataset, result: object, message: str) -> None:
        with pytest.raises(MetricError, match=message):
            open_evaluator(gives(result), [X])(identity, split, 4)

    def test_neither_name_nor_function(self) -> None:
        with pytest.raises(MetricError, match="int is neither"):
            open_evaluator(3, [X])  # type: ignore[arg-type]

    def test_an_output_name_for_a_function(self) -> None:
        with pytest.raises(MetricError, match="picks the model's output itself"):
            open_evaluator(gives(1), [X], output="logits")


class TestRepeatable:
    def test_gives_the_score_of_the_original(self, split: Dataset) -> None:
        assert check_repeatable(open_evaluator("accuracy", [X]), identity, split, 4).value == 0.8
        assert check_repeatable(open_evaluator(gives(0.25), [X]), identity, split, 4).value == 0.25

    def test_a_changing_score(self, split: Dataset) -> None:
        counter: Iterator[int] = count()
        with pytest.raises(MetricError, match=r"changes between calls on the same model: 0, then 1.*seeds.*shuffle"):
            check_repeatable(open_evaluator(lambda predict: next(counter), [X]), identity, split, 4)

    def test_a_changing_order_of_samples(self, split: Dataset) -> None:
        orders = iter([[0, 1], [1, 0]])
        with pytest.raises(MetricError, match="changes between calls"):
            check_repeatable(open_evaluator(lambda predict: next(orders), [X]), identity, split, 4)

    def test_a_changing_number_of_samples(self, split: Dataset) -> None:
        lengths = iter([[1, 1], [1, 1, 1]])
        with pytest.raises(MetricError, match="2 per-sample scores, then 3"):
            check_repeatable(open_evaluator(lambda predict: next(lengths), [X]), identity, split, 4)

    def test_rounding_is_no_change(self, split: Dataset) -> None:
        values = iter([0.5, 0.5 + 1e-9])
        check_repeatable(open_evaluator(lambda predict: next(values), [X]), identity, split, 4)

    def test_an_original_that_gives_nan(self, split: Dataset) -> None:
        def broken(inputs: Arrays) -> Arrays:
            return {"logits": inputs["x"] * np.nan}

        with pytest.raises(MetricError, match="original model gives NaN in output 'logits'"):
            check_repeatable(open_evaluator("accuracy", [X]), broken, split, 4)

    def test_an_infinite_score(self, split: Dataset) -> None:
        data = open_data((np.ones((2, 3)), np.ones((2, 3))), [X])
        with pytest.raises(MetricError, match="mse gives inf for the original model"):
            check_repeatable(open_evaluator("mse", [X]), lambda inputs: {"y": inputs["x"] * np.inf}, data, 2)
