"""Limits held against what was measured, and what limits make of the last decision."""

from __future__ import annotations

import pytest

from fewbits.budget import ANY_LOSS, Budget
from fewbits.evaluation import Direction, Scores
from fewbits.limits import Limits
from fewbits.measurement import Interval, Latency
from fewbits.outcome import Outcome
from fewbits.record import Accuracy
from fewbits.verify.acceptance import Objective, compare_accuracy, verdict
from fewbits.verify.paired import median_interval
from fewbits.verify.within import Figures, Limited, kept, likely_within, missed, seconds_of

FASTER, SAME, SLOWER = Interval(1.5, 1.4, 1.6), Interval(1.02, 0.98, 1.06), Interval(0.8, 0.7, 0.9)


def latency(*blocks: float) -> Latency:
    return Latency("a", sorted(blocks)[len(blocks) // 2], tuple((block,) * 3 for block in blocks))


def figures(milliseconds: float, size: int) -> Figures:
    return Figures(Interval(milliseconds / 1e3, milliseconds / 1.1e3, milliseconds / 0.9e3), size)


def accuracy(wrong: int, budget: Budget = ANY_LOSS) -> Accuracy:
    right = (1.0,) * 100
    return compare_accuracy(
        "accuracy",
        Direction.HIGHER,
        Scores(1.0, 100, right),
        Scores(1 - wrong / 100, 100, (0.0,) * wrong + right[wrong:]),
        budget,
    )


def limited(limits: Limits, original: Figures, tuned: Figures) -> Limited:
    return Limited(limits, original, tuned)


def test_seconds_are_those_of_the_blocks() -> None:
    found = seconds_of(latency(*(one / 1e3 for one in range(1, 10))))
    assert found.value == 0.005
    assert (found.low, found.high) == (
        median_interval([one / 1e3 for one in range(1, 10)]).low,
        median_interval([one / 1e3 for one in range(1, 10)]).high,
    )


def test_a_margin_is_kept_where_the_latency_swings() -> None:
    """Both have the same median; the one that swings may miss the limit the next time."""
    limits = Limits(0.0051)
    steady, swinging = latency(*[0.005] * 8), latency(0.0049, 0.0049, 0.0049, 0.005, 0.005, 0.0056, 0.0056, 0.0056)
    assert likely_within(limits, steady, 10)
    assert limits.hold(swinging.median, 10)
    assert not likely_within(limits, swinging, 10)
    assert not likely_within(Limits(0.0051, 9), steady, 10)


def test_what_is_missed_and_kept_is_said() -> None:
    limits = Limits(0.005, 1000)
    assert missed(limits, figures(4, 900), "It") == ""
    assert missed(limits, figures(6, 900), "It").startswith(
        "It takes 6 ms (95% interval 5.455 to 6.667) per call, more"
    )
    assert missed(limits, figures(6, 1200), "It").endswith("5ms and has 1,200 bytes, more than the allowed 1,000.")
    assert "reaches beyond it" in kept(limits, figures(4.9, 900), "It")
    assert "reaches beyond" not in kept(limits, figures(4, 900), "It")
    assert kept(Limits(), figures(4, 900), "It") == ""
    assert missed(Limits(0.005), Figures(None, 10), "It") == "", "what was not timed is not said to miss"


class TestVerdict:
    """The fastest, the smallest and the most accurate model beside limits."""

    def test_the_most_accurate_model_within_limits_is_met(self) -> None:
        found = verdict(
            Objective.ACCURACY, accuracy(7), FASTER, 1000, 300,
            limited(Limits(0.005), figures(8, 1000), figures(4, 300)),
        )  # fmt: skip
        assert found.outcome is Outcome.MET
        assert "The tuned model takes 4 ms" in found.reason
        assert "The original takes 8 ms" in found.reason
        assert "The loss of accuracy is 0.07" in found.reason
        assert "within the allowed any" not in found.reason

    def test_a_loss_that_was_not_allowed_is_refused_however_much_was_asked_for_accuracy(self) -> None:
        found = verdict(
            Objective.ACCURACY, accuracy(7, Budget.parse("5%")), FASTER, 1000, 300,
            limited(Limits(0.005), figures(8, 1000), figures(4, 300)),
        )  # fmt: skip
        assert found.outcome is Outcome.BUDGET_UNREACHABLE
        assert "more than the allowed 5%" in found.reason

    @pytest.mark.parametrize("objective", list(Objective))
    def test_a_limit_that_is_missed_is_unreachable_whatever_was_gained(self, objective: Objective) -> None:
        found = verdict(
            objective, accuracy(0), FASTER, 1000, 300, limited(Limits(0.005), figures(9, 1000), figures(6, 300))
        )
        assert found.outcome is Outcome.BUDGET_UNREACHABLE
        assert "more than the allowed 5ms" in found.reason

    def test_the_original_within_the_limits_is_as_accurate_as_can_be(self) -> None:
        found = verdict(
            Objective.ACCURACY, accuracy(0), FASTER, 1000, 300, limited(Limits(0.01), figures(8, 1000), figures(4, 300))
        )
        assert found.outcome is Outcome.KEPT_ORIGINAL
        assert "nothing is more accurate" in found.reason

    @pytest.mark.parametrize("gain", [SAME, SLOWER])
    def test_a_model_that_gains_nothing_replaces_an_original_that_is_too_large(self, gain: Interval) -> None:
        small = Limits(size=500)
        found = verdict(
            Objective.LATENCY, accuracy(0), gain, 1000, 300, limited(small, figures(5, 1000), figures(5, 300))
        )
        assert found.outcome is Outcome.MET
        assert "The original has 1,000 bytes, more than the allowed 500." in found.reason
        assert f"{gain.value:.2f}x the speed" in found.reason
        without = verdict(
            Objective.LATENCY, accuracy(0), gain, 400, 300, limited(small, figures(5, 400), figures(5, 300))
        )
        assert without.outcome is Outcome.KEPT_ORIGINAL
