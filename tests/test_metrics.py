"""Metrics by name, against scikit-learn and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from fewbits.data.batches import Array
from fewbits.errors import MetricError
from fewbits.evaluation import Direction
from fewbits.metrics import CATALOG, metric


def score(text: str, outputs: Array, reference: Array) -> float:
    found = metric(text)
    return found.value(found.rows(outputs, reference, found.threshold))


def logits(samples: int = 200, classes: int = 10, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=samples)
    outputs = random.normal(size=(samples, classes)).astype(np.float32)
    outputs[np.arange(samples), labels] += 1
    return outputs, labels


class TestCatalog:
    def test_names_and_directions(self) -> None:
        assert set(CATALOG) == {"accuracy", "top5", "f1", "mse", "cosine", "agreement"}
        assert {name for name, each in CATALOG.items() if each.direction is Direction.LOWER} == {"mse"}
        assert {name for name, each in CATALOG.items() if not each.needs_labels} == {"cosine", "agreement"}
        assert {name for name, each in CATALOG.items() if not each.per_sample} == {"f1"}

    @pytest.mark.parametrize("text", [*CATALOG, "accuracy@0.5", "f1@-2.0", "agreement@0.0"])
    def test_the_text_form_round_trips(self, text: str) -> None:
        assert str(metric(text)) == text
        assert metric(str(metric(text))) == metric(text)

    @pytest.mark.parametrize(("alias", "name"), [("top-5", "top5"), ("Top_5", "top5"), ("F1", "f1"), ("MSE", "mse")])
    def test_other_spellings(self, alias: str, name: str) -> None:
        assert metric(alias) is CATALOG[name]

    def test_unknown_lists_the_choices_and_the_nearest(self) -> None:
        with pytest.raises(MetricError) as caught:
            metric("acuracy")
        message = str(caught.value)
        assert "did you mean 'accuracy'?" in message
        assert all(name in message for name in CATALOG)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("mse@1", "takes no threshold; accuracy, f1, agreement do"),
            ("f1@x", "not a threshold"),
            ("f1@nan", "finite"),
        ],
    )
    def test_thresholds_that_cannot_be(self, text: str, message: str) -> None:
        with pytest.raises(MetricError, match=message):
            metric(text)


class TestAccuracy:
    def test_against_scikit_learn(self) -> None:
        outputs, labels = logits()
        expected = sklearn.accuracy_score(labels, outputs.argmax(axis=1))
        assert score("accuracy", outputs, labels) == pytest.approx(expected)
        assert score("accuracy", outputs, labels[:, None]) == pytest.approx(expected)
        assert score("accuracy", outputs, labels.astype(np.float64)) == pytest.approx(expected)
        assert score("accuracy", outputs, np.eye(10, dtype=np.float32)[labels]) == pytest.approx(expected)

    def test_integer_outputs_are_classes_already(self) -> None:
        assert score("accuracy", np.array([0, 2, 1]), np.array([0, 2, 2])) == pytest.approx(2 / 3)
        assert score("accuracy", np.array([[0], [2], [1]]), np.array([0, 2, 2])) == pytest.approx(2 / 3)

    def test_positions_are_averaged_per_sample_and_negative_labels_do_not_count(self) -> None:
        outputs = np.eye(3, dtype=np.float32)[np.array([[0, 1, 2], [0, 0, 0]])]
        rows = CATALOG["accuracy"].rows(outputs, np.array([[0, 1, 0], [0, -100, -100]]), None)
        np.testing.assert_allclose(rows, [2 / 3, 1])

    def test_a_sample_whose_labels_are_all_negative(self) -> None:
        with pytest.raises(MetricError, match="no label at any position"):
            score("accuracy", np.zeros((1, 2, 3), np.float32), np.full((1, 2), -100))

    @pytest.mark.parametrize("shape", [(4,), (4, 1)])
    def test_a_single_column_needs_a_threshold(self, shape: tuple[int, ...]) -> None:
        outputs = np.array([0.1, 0.4, 0.6, 0.9], np.float32).reshape(shape)
        for labels in (np.array([0, 1, 1, 1]), np.array([[0], [1], [1], [1]]), np.array([0.0, 1.0, 1.0, 1.0])):
            assert score("accuracy@0.5", outputs, labels) == 0.75
            assert score("accuracy@0", outputs, labels) == 0.75
            assert score("accuracy@0.3", outputs, labels) == 1
        with pytest.raises(MetricError, match=r"single column.*accuracy@0\.5 if it is a probability.*accuracy@0"):
            score("accuracy", outputs, np.array([0, 1, 1, 1]))

    def test_a_threshold_for_several_columns(self) -> None:
        with pytest.raises(MetricError, match="single column only"):
            score("accuracy@0.5", *logits())

    def test_a_nan_is_a_wrong_answer(self) -> None:
        outputs = np.array([[1.0, 0.0], [np.nan, 0.0]])
        assert score("accuracy", outputs, np.array([0, 0])) == 0.5
        assert score("accuracy@0", np.array([np.nan, -1.0]), np.array([0, 0])) == 0.5

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.array([1, 2, 3, 4]), r"labels reach 4, but the output has 4 classes: indices go from 0 to 3"),
            (np.array([0, -1, 0, 0]), "must not be negative"),
            (np.array([0.5, 1, 1, 1]), "whole numbers"),
            (np.zeros((4, 2), np.int64), r"labels have shape \(4, 2\)"),
            (np.full((4, 4), 0.25), "one-hot"),
        ],
    )
    def test_labels_that_do_not_fit(self, labels: Array, message: str) -> None:
        with pytest.raises(MetricError, match=message):
            score("accuracy", np.zeros((4, 4), np.float32), labels)


class TestTop5:
    def test_against_scikit_learn(self) -> None:
        outputs, labels = logits(classes=20)
        assert score("top5", outputs, labels) == pytest.approx(sklearn.top_k_accuracy_score(labels, outputs, k=5))

    def test_ties_go_to_the_lower_index(self) -> None:
        outputs = np.zeros((7, 7), np.float32)
        rows = CATALOG["top5"].rows(outputs, np.arange(7), None)
        np.testing.assert_array_equal(rows, [1, 1, 1, 1, 1, 0, 0])

    def test_a_nan_is_a_wrong_answer(self) -> None:
        assert score("top5", np.full((1, 7), np.nan), np.array([0])) == 0

    def test_too_few_classes(self) -> None:
        with pytest.raises(MetricError, match="more than 5 classes"):
            score("top5", np.zeros((2, 5), np.float32), np.array([0, 1]))


class TestF1:
    @given(st.integers(0, 30), st.sampled_from([2, 3, 6]))
    def test_against_scikit_learn(self, seed: int, classes: int) -> None:
        outputs, labels = logits(40, classes, seed)
        average = "binary" if classes == 2 else "macro"
        expected = sklearn.f1_score(labels, outputs.argmax(axis=1), average=average, zero_division=0)
        assert score("f1", outputs, labels) == pytest.approx(expected)

    def test_three_classes_stay_macro_where_one_is_absent(self) -> None:
        outputs = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
        labels = np.array([0, 1, 1, 1])
        expected = sklearn.f1_score(labels, [0, 0, 1, 1], average="macro")
        assert score("f1", outputs, labels) == pytest.approx(expected)

    def test_integer_and_single_column_outputs(self) -> None:
        labels = np.array([0, 1, 1, 1])
        expected = sklearn.f1_score(labels, [0, 0, 1, 1])
        assert score("f1", np.array([0, 0, 1, 1]), labels) == pytest.approx(expected)
        assert score("f1@0.5", np.array([0.1, 0.2, 0.8, 0.9]), labels) == pytest.approx(expected)

    @given(st.integers(0, 30))
    def test_positions_count_alike_and_those_without_a_label_do_not(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        outputs = random.normal(size=(6, 7, 4)).astype(np.float32)
        labels = np.where(random.random((6, 7)) < 0.3, -100, random.integers(0, 4, (6, 7)))
        labels[2] = -100
        kept = labels >= 0
        expected = sklearn.f1_score(labels[kept], outputs.argmax(-1)[kept], average="macro", zero_division=0)
        assert score("f1", outputs, labels) == pytest.approx(expected)
        rows = CATALOG["f1"].rows(outputs, labels, None)
        assert rows[:, -1].sum() == kept.sum()
        assert 2 not in rows[:, 0]

    def test_no_hit_at_all_is_zero(self) -> None:
        assert score("f1", np.array([0, 0]), np.array([1, 1])) == 0
        assert score("f1", np.array([0, 0]), np.array([0, 0])) == 0


class TestMse:
    def test_against_scikit_learn(self) -> None:
        random = np.random.default_rng(0)
        outputs, labels = random.normal(size=(9, 4)).astype(np.float32), random.normal(size=(9, 4))
        assert score("mse", outputs, labels) == pytest.approx(sklearn.mean_squared_error(labels, outputs))

    def test_a_trailing_axis_of_one_is_not_broadcast(self) -> None:
        outputs, labels = np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0])
        assert score("mse", outputs, labels) == pytest.approx(1 / 3)
        assert score("mse", labels, outputs) == pytest.approx(1 / 3)

    @pytest.mark.parametrize("shape", [(3, 2), (3, 3), (4,)])
    def test_shapes_that_do_not_match(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(MetricError, match="one shape"):
            score("mse", np.zeros(3), np.zeros(shape))

    def test_a_nan_is_infinitely_wrong(self) -> None:
        assert score("mse", np.array([np.nan, 0.0]), np.zeros(2)) == np.inf


class TestAgainstTheOriginal:
    def test_cosine_by_hand(self) -> None:
        outputs = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [-2.0, 0.0]])
        reference = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        rows = CATALOG["cosine"].rows(outputs, reference, None)
        np.testing.assert_allclose(rows, [1, np.sqrt(0.5), 1, 0, -1])

    @given(st.integers(0, 50))
    def test_the_original_scores_one(self, seed: int) -> None:
        outputs, _ = logits(12, 6, seed)
        for name in ("cosine", "agreement"):
            kept = CATALOG[name].keep(outputs, None)
            assert score(name, outputs, kept) == pytest.approx(1)

    def test_cosine_ignores_scale_and_flattens(self) -> None:
        outputs = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
        assert score("cosine", outputs * 3, outputs) == pytest.approx(1)

    def test_cosine_of_nan_is_the_worst(self) -> None:
        assert score("cosine", np.full((1, 2), np.nan), np.ones((1, 2))) == -1

    def test_agreement_averages_positions(self) -> None:
        reference = np.eye(3, dtype=np.float32)[[[0, 1], [2, 2]]]
        outputs = np.eye(3, dtype=np.float32)[[[0, 2], [2, 2]]]
        rows = CATALOG["agreement"].rows(outputs, CATALOG["agreement"].keep(reference, None), None)
        np.testing.assert_allclose(rows, [0.5, 1])

    def test_outputs_of_another_shape(self) -> None:
        for name in ("cosine", "agreement"):
            kept = CATALOG[name].keep(np.zeros((2, 3), np.float32), None)
            with pytest.raises(MetricError, match="original model, whose output has shape"):
                score(name, np.zeros((2, 4, 3), np.float32), kept)

    def test_an_original_that_is_not_finite(self) -> None:
        with pytest.raises(MetricError, match="undefined; use agreement"):
            CATALOG["cosine"].keep(np.array([[np.inf, 0.0]]), None)
