"""Races with evaluators that are made up: how much is read, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewbits.budget import Budget
from fewbits.data.arrays import ArrayDataset
from fewbits.data.batches import Batch
from fewbits.errors import MetricError
from fewbits.evaluation import Direction, Scores
from fewbits.metrics import metric
from fewbits.verify.evaluators import MetricEvaluator
from fewbits.verify.racing import chunks, joined, race
from fewbits.verify.sequential import Standing, judge, looks

HIGHER = Direction.HIGHER
BUDGET = Budget(0.01, relative=False)


def scores(values: np.ndarray) -> Scores:
    return Scores(float(values.mean()), len(values), tuple(values.tolist()))


@dataclass
class Fake:
    """Gives what it was told, and keeps what it was asked."""

    values: np.ndarray
    asked: list[range] = field(default_factory=list)

    def __call__(self, chunk: range) -> Scores:
        self.asked.append(chunk)
        return scores(self.values[chunk.start : chunk.stop])


def right(samples: int, wrong: int = 0) -> np.ndarray:
    """0/1 scores with the `wrong` ones spread evenly."""
    values = np.ones(samples)
    values[np.linspace(0, samples - 1, wrong).astype(int)] = 0
    return values


def test_a_clearly_bad_plan_is_dropped_after_the_first_chunk() -> None:
    fake = Fake(right(2000, 600))
    raced = race(fake, scores(right(2000)), BUDGET, HIGHER)
    assert fake.asked == [range(125)]
    assert raced.judgement.standing is Standing.HOPELESS
    assert raced.scores.samples == raced.judgement.samples == 125
    assert not BUDGET.holds(raced.judgement.loss)


def test_an_unchanged_plan_is_sure_before_the_end() -> None:
    fake = Fake(right(2000, 50))
    raced = race(fake, scores(right(2000, 50)), BUDGET, HIGHER)
    assert raced.judgement.standing is Standing.SURE
    assert raced.judgement.samples == 500


def test_a_plan_at_the_limit_reads_everything_once_and_in_order() -> None:
    values = right(2000, 20)
    fake = Fake(values)
    raced = race(fake, scores(right(2000)), BUDGET, HIGHER)
    assert [index for chunk in fake.asked for index in chunk] == list(range(2000))
    assert tuple(chunk.stop for chunk in fake.asked) == looks(2000)
    assert raced.judgement.standing is Standing.UNDECIDED
    assert raced.scores == scores(values)
    assert raced.judgement.loss == pytest.approx(BUDGET.loss(scores(right(2000)), scores(values), HIGHER))


@given(st.integers(1, 700), st.integers(0, 100), st.integers(0, 2**32))
def test_the_judgement_is_that_of_what_was_read(samples: int, wrong: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(samples)
    fake = Fake(right(samples, min(wrong, samples))[order])
    original = scores(right(samples))
    raced = race(fake, original, BUDGET, HIGHER)
    read = scores(fake.values[: fake.asked[-1].stop])
    assert raced.scores == read
    assert raced.judgement == judge(original, read, BUDGET, HIGHER, looks(samples))


@dataclass
class Classifier:
    """F1 of given answers, evaluated as a split is: each chunk by itself, samples counted from 0."""

    answers: np.ndarray
    labels: np.ndarray
    asked: list[range] = field(default_factory=list)

    def __call__(self, chunk: range) -> Scores:
        self.asked.append(chunk)
        piece = ArrayDataset({"x": self.answers}, self.labels, np.array(chunk))
        return MetricEvaluator(metric("f1"))(lambda inputs: {"y": inputs["x"]}, piece, 16)


def test_f1_is_dropped_after_a_part_and_never_passed() -> None:
    labels = np.arange(800) % 2
    original = Classifier(labels, labels)(range(800))
    bad = Classifier(np.where(np.arange(800) % 3, labels, 0), labels)
    raced = race(bad, original, BUDGET, HIGHER)
    assert raced.judgement.standing is Standing.HOPELESS
    assert bad.asked == [range(50)]
    assert not BUDGET.holds(raced.judgement.loss)
    same = Classifier(labels, labels)
    raced = race(same, original, BUDGET, HIGHER)
    assert raced.judgement.standing is Standing.UNDECIDED
    assert raced.scores == original
    assert [chunk.stop for chunk in same.asked] == list(looks(800))


def test_a_chunk_without_any_label_is_not_scored_by_itself() -> None:
    labels = np.where(np.arange(800)[:, None] < 100, -100, np.arange(800)[:, None] % 2)
    answers = np.eye(2, dtype=np.float32)[np.maximum(labels, 0)]
    original = Classifier(answers, labels)(range(800))
    again = Classifier(answers, labels)
    assert race(again, original, BUDGET, HIGHER).scores == original
    assert again.asked == [range(800)]


def test_a_score_of_the_whole_alone_is_read_at_once() -> None:
    asked: list[range] = []

    def evaluate(chunk: range) -> Scores:
        asked.append(chunk)
        return Scores(0.7, len(chunk))

    raced = race(evaluate, Scores(0.8, 500), Budget.parse("1%"), HIGHER)
    assert asked == [range(500)]
    assert raced.judgement.standing is Standing.UNDECIDED
    assert raced.judgement.loss == pytest.approx(0.125)
    assert raced.scores == Scores(0.7, 500)


def test_an_evaluator_that_ignores_its_range() -> None:
    with pytest.raises(MetricError, match="samples 0 to 124 gave 2000 per-sample scores; 125 were expected"):
        race(lambda _: scores(right(2000)), scores(right(2000)), BUDGET, HIGHER)


@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=2, max_size=5))
def test_joined_is_the_whole(pieces: list[list[float]]) -> None:
    whole = scores(np.array(pieces[0]))
    for piece in pieces[1:]:
        whole = joined(whole, scores(np.array(piece)))
    assert whole == scores(np.concatenate(pieces))


def test_what_cannot_be_joined() -> None:
    with pytest.raises(MetricError, match="one score per sample"):
        joined(Scores(0.8, 10), scores(right(5)))


def test_chunks_cover_the_looks() -> None:
    assert chunks((32, 64, 200)) == (range(32), range(32, 64), range(64, 200))


def test_a_metric_in_pieces_gives_the_scores_of_the_whole() -> None:
    """The evaluator that the search uses, on pieces of a split."""
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((300, 4)), random.integers(0, 4, 300)
    split = ArrayDataset.of(Batch({"x": logits}, labels))
    evaluator = MetricEvaluator(metric("accuracy"))
    original = evaluator(lambda given: {"y": given["x"]}, split, 16)
    raced = race(
        lambda chunk: evaluator(lambda given: {"y": -given["x"]}, split.take(chunk), 16), original, BUDGET, HIGHER
    )
    whole = evaluator(lambda given: {"y": -given["x"]}, split, 16)
    read = raced.scores.samples
    assert raced.scores.per_sample == whole.per_sample[:read]
