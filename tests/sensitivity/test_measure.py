"""One seam for all measures: nothing for what is the same, and each says what it needs."""

from __future__ import annotations

import numpy as np
import pytest

from fewbits.errors import UsageError
from fewbits.evaluation import Direction
from fewbits.sensitivity.measure import AUTO, NAMES, OUTPUT, Seen, measure

HIGHER, LOWER = Direction.HIGHER, Direction.LOWER
LOGITS = {"y": np.array([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], np.float32)}
SAME = Seen([LOGITS, LOGITS], (1.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_does_no_harm(name: str) -> None:
    harm = measure(name, LOGITS, HIGHER).harm(SAME, SAME)
    assert (harm.value, harm.error) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_what_differs_does_and_the_doubt_is_known(name: str) -> None:
    other = Seen([{"y": LOGITS["y"][::-1]}, LOGITS], (0.0, 0.0, 1.0, 1.0))
    harm = measure(name, LOGITS, HIGHER).harm(SAME, other)
    assert harm.value > 0
    assert harm.error > 0


def test_what_is_left_open_is_the_output_error() -> None:
    assert measure(AUTO, LOGITS, HIGHER).name == OUTPUT


def test_loss_is_the_mean_over_samples_with_its_standard_error() -> None:
    before, after = Seen([LOGITS], (0.9, 0.8, 0.7, 0.6)), Seen([LOGITS], (0.8, 0.8, 0.4, 0.6))
    lost = np.array([0.1, 0.0, 0.3, 0.0])
    harm = measure("loss", LOGITS, HIGHER).harm(before, after)
    assert harm.value == pytest.approx(lost.mean())
    assert harm.error == pytest.approx(lost.std(ddof=1) / 2)


def test_a_gain_is_no_harm_and_which_way_is_better_counts() -> None:
    before, after = Seen([LOGITS], (1.0, 2.0)), Seen([LOGITS], (2.0, 2.0))
    assert measure("loss", LOGITS, HIGHER).harm(before, after).value == 0
    assert measure("loss", LOGITS, LOWER).harm(before, after).value == 0.5


def test_where_no_sample_tells_the_output_error_does_and_counts_for_less_than_one() -> None:
    scores = (1.0,) * 10
    loss = measure("loss", LOGITS, HIGHER).harm
    near, far = ({"y": LOGITS["y"] * np.float32(factor)} for factor in (1.01, 3.0))
    harms = [loss(Seen([LOGITS], scores), Seen([one], scores)).value for one in (LOGITS, near, far)]
    assert harms == pytest.approx([0.0, 1e-4 / 10, 1 / 10], rel=1e-3)
    assert harms[-1] <= loss(Seen([LOGITS], scores), Seen([LOGITS], (0.0, *scores[1:]))).value


@pytest.mark.parametrize("scores", [(), (1.0,)])
def test_loss_needs_a_score_per_sample(scores: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="one score per sample"):
        measure("loss", LOGITS, HIGHER).harm(Seen(scores=scores), Seen(scores=(1.0, 0.0)))


def test_what_does_not_fit_is_said_at_once() -> None:
    with pytest.raises(UsageError, match="a single figure"):
        measure("kl", {"y": np.ones((4, 1), np.float32)}, HIGHER)
    with pytest.raises(UsageError, match="'guess' is no measure of sensitivity; choose auto, output, kl, loss"):
        measure("guess", LOGITS, HIGHER)
