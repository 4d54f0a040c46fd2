"""The last decision, from scores and latencies alone."""

from __future__ import annotations

import numpy as np
import pytest

import f1_scores
from fewbits.budget import Budget
from fewbits.errors import MetricError
from fewbits.evaluation import Direction, Scores
from fewbits.measurement import Comparison, Interval, MemoryComparison
from fewbits.outcome import Outcome
from fewbits.record import Accuracy, PredictedCost
from fewbits.verify.acceptance import (
    Objective,
    compare_accuracy,
    holds,
    holds_for_sure,
    is_faster,
    likely_holds,
    predicted_verdict,
    speedup,
    verdict,
)
from fewbits.verify.resampling import first_samples


def scores(right: int, samples: int = 100) -> Scores:
    return Scores(right / samples, samples, (1.0,) * right + (0.0,) * (samples - right))


def accuracy(original: int, tuned: int, budget: str, samples: int = 100) -> Accuracy:
    return compare_accuracy(
        "accuracy", Direction.HIGHER, scores(original, samples), scores(tuned, samples), Budget.parse(budget)
    )


def f1(wrong: int, samples: int) -> Scores:
    """Every second sample is of class 1, and `wrong` of these, the first ones, are not found."""
    true = np.arange(samples) % 2 == 1
    return f1_scores.f1(true & (np.arange(samples) // 2 >= wrong), true)


FASTER, SAME, SLOWER = Interval(1.5, 1.4, 1.6), Interval(1.02, 0.98, 1.06), Interval(0.8, 0.7, 0.9)


class TestAccuracy:
    def test_values_and_unit_of_a_relative_budget(self) -> None:
        found = accuracy(80, 76, "5%")
        assert (found.original.value, found.tuned.value) == (0.8, 0.76)
        assert found.loss.value == pytest.approx(0.05)
        assert (found.max_loss, found.relative, found.samples) == (0.05, True, 100)
        assert found.original.low < 0.8 < found.original.high

    def test_the_loss_interval_is_divided_by_the_original_score(self) -> None:
        absolute, relative = accuracy(80, 76, "0.1").loss, accuracy(80, 76, "10%").loss
        for part in ("low", "value", "high"):
            whole = {"low": absolute.low, "value": absolute.value, "high": absolute.high}[part]
            share = {"low": relative.low, "value": relative.value, "high": relative.high}[part]
            assert share == pytest.approx(whole / 0.8)

    def test_lower_is_better(self) -> None:
        original, tuned = Scores(0.2, 3, (0.1, 0.2, 0.3)), Scores(0.25, 3, (0.15, 0.22, 0.38))
        found = compare_accuracy("mse", Direction.LOWER, original, tuned, Budget.parse("0.1"))
        assert found.loss.value == pytest.approx(0.05)
        assert found.loss.low > 0

    def test_f1_has_an_interval_of_paired_samples(self) -> None:
        found = compare_accuracy("f1", Direction.HIGHER, f1(0, 200), f1(10, 200), Budget.parse("5%"))
        assert found.original == Interval(1.0, 1.0, 1.0)
        assert found.tuned.low < found.tuned.value < found.tuned.high < 1
        assert found.loss.value == pytest.approx(1 - found.tuned.value)
        assert found.loss.low < found.loss.value < found.loss.high
        same = compare_accuracy("f1", Direction.HIGHER, f1(10, 200), f1(10, 200), Budget.parse("5%"))
        assert (same.loss.low, same.loss.high) == (0, 0)

    def test_a_single_number_has_no_width(self) -> None:
        found = compare_accuracy("mine", Direction.HIGHER, Scores(0.8, 50), Scores(0.79, 50), Budget.parse("5%"))
        assert found.loss.low == found.loss.value == found.loss.high == pytest.approx(0.0125)
        assert found.original == Interval(0.8, 0.8, 0.8)

    def test_scores_of_different_samples(self) -> None:
        with pytest.raises(MetricError, match="100 per-sample scores for the original and 90"):
            compare_accuracy("mine", Direction.HIGHER, scores(80), scores(80, 90), Budget.parse("1%"))

    def test_an_original_that_scores_zero(self) -> None:
        with pytest.raises(MetricError, match="undefined"):
            accuracy(0, 0, "1%")
        assert holds(accuracy(0, 0, "0.01"))

    def test_holding_and_holding_for_sure(self) -> None:
        close = accuracy(90, 89, "2%")
        assert holds(close)
        assert not holds_for_sure(close)
        assert holds_for_sure(accuracy(9000, 9000, "2%", samples=10_000))
        assert not holds(accuracy(90, 80, "2%"))


class TestVerdict:
    def test_faster_and_within_the_budget_is_met(self) -> None:
        found = verdict(Objective.LATENCY, accuracy(90, 90, "1%"), FASTER, 100, 30)
        assert found.outcome is Outcome.MET
        assert "1.50x" in found.reason
        assert "within the allowed 1%" in found.reason

    def test_a_pass_that_the_interval_does_not_confirm_says_so(self) -> None:
        doubtful = verdict(Objective.LATENCY, accuracy(90, 90, "1%"), FASTER, 100, 30)
        sure = verdict(Objective.LATENCY, accuracy(9000, 9000, "1%", 10_000), FASTER, 100, 30)
        assert "reaches beyond" in doubtful.reason
        assert "reaches beyond" not in sure.reason

    @pytest.mark.parametrize("objective", list(Objective))
    def test_too_large_a_loss_is_unreachable_however_fast(self, objective: Objective) -> None:
        found = verdict(objective, accuracy(90, 80, "1%"), FASTER, 100, 30)
        assert found.outcome is Outcome.BUDGET_UNREACHABLE
        assert "relative loss of accuracy is 11.11%" in found.reason
        assert "more than the allowed 1%" in found.reason

    @pytest.mark.parametrize("objective", [Objective.LATENCY, Objective.THROUGHPUT])
    @pytest.mark.parametrize("gain", [SAME, SLOWER, Interval(1.3, 1.0, 1.5), None])
    def test_no_sure_gain_in_speed_keeps_the_original(self, objective: Objective, gain: Interval | None) -> None:
        found = verdict(objective, accuracy(90, 90, "1%"), gain, 100, 30)
        assert found.outcome is Outcome.KEPT_ORIGINAL
        assert found.reason

    def test_a_gain_in_throughput_is_called_so(self) -> None:
        found = verdict(Objective.THROUGHPUT, accuracy(90, 90, "1%"), FASTER, 100, 300)
        assert found.outcome is Outcome.MET
        assert "1.50x the throughput of the original" in found.reason

    def test_memory_counts_only_beyond_what_measurements_scatter(self) -> None:
        def memory(low: float) -> MemoryComparison:
            peaks = {"original": (110 << 20, 100 << 20), "tuned": (70 << 20,) * 2}
            return MemoryComparison("original", peaks, {"tuned": Interval(35 * 2**20, low * 2**20, 40 * 2**20)}, "")

        sure = verdict(Objective.MEMORY, accuracy(90, 90, "1%"), SLOWER, 100, 300, memory=memory(30))
        assert sure.outcome is Outcome.MET
        assert "70.0 MiB at its peak against 105.0 MiB" in sure.reason
        assert "35.0 MiB less (95% interval 30.0 to 40.0)" in sure.reason
        assert "slower: 0.80x" in sure.reason
        for low in (0, -1):
            unsure = verdict(Objective.MEMORY, accuracy(90, 90, "1%"), FASTER, 300, 100, memory=memory(low))
            assert unsure.outcome is Outcome.KEPT_ORIGINAL
        assert verdict(Objective.MEMORY, accuracy(90, 90, "1%"), FASTER, 300, 100).outcome is Outcome.KEPT_ORIGINAL

    def test_size_counts_bytes_and_mentions_a_loss_of_speed(self) -> None:
        smaller = verdict(Objective.SIZE, accuracy(90, 90, "1%"), SLOWER, 1000, 300)
        assert smaller.outcome is Outcome.MET
        assert "300 bytes against 1,000" in smaller.reason
        assert "slower: 0.80x" in smaller.reason
        assert verdict(Objective.SIZE, accuracy(90, 90, "1%"), FASTER, 300, 300).outcome is Outcome.KEPT_ORIGINAL
        assert verdict(Objective.SIZE, accuracy(90, 90, "1%"), None, 301, 300).outcome is Outcome.MET

    def test_a_gain_must_have_its_whole_interval_above_one(self) -> None:
        assert [is_faster(gain) for gain in (FASTER, SAME, SLOWER, Interval(2, 1, 3))] == [True, False, False, False]

    def test_the_speedup_is_looked_up_by_name(self) -> None:
        comparison = Comparison("original", {}, {"tuned": FASTER}, "")
        assert speedup(comparison, "tuned") == FASTER
        with pytest.raises(KeyError):
            speedup(comparison, "other")


class TestPredictions:
    """A prediction in the place of a measured gain."""

    def test_less_than_the_original_is_a_gain(self) -> None:
        cost = PredictedCost("size", "bytes", original=4e6, widest=1e6, tuned=5e5)
        found = predicted_verdict(accuracy(90, 90, "1%"), cost)
        assert found.outcome is Outcome.MET
        assert "5e+05 bytes by prediction of size, 8.00x less" in found.reason

    def test_no_less_is_none(self) -> None:
        found = predicted_verdict(
            accuracy(90, 90, "1%"), PredictedCost("ram", "bytes", original=100.0, widest=100.0, tuned=100.0)
        )
        assert found.outcome is Outcome.KEPT_ORIGINAL
        assert "no gain" in found.reason

    def test_where_the_original_cannot_run_whatever_runs_is_a_gain(self) -> None:
        found = predicted_verdict(
            accuracy(90, 90, "1%"), PredictedCost("mpic", "cycles", original=-1.0, widest=100.0, tuned=100.0)
        )
        assert found.outcome is Outcome.MET
        assert "no cost for the original" in found.reason

    def test_a_loss_beyond_the_budget_decides_first(self) -> None:
        cost = PredictedCost("size", "bytes", original=4.0, widest=2.0, tuned=1.0)
        assert predicted_verdict(accuracy(90, 80, "1%"), cost).outcome is Outcome.BUDGET_UNREACHABLE


class TestMargin:
    """A loss that is likely to be within the budget on other samples, too."""

    ORIGINAL = Scores(1.0, 100, (1.0,) * 100)

    @staticmethod
    def wrong(count: int, samples: int = 100) -> Scores:
        right = (1.0,) * (samples - count)
        return Scores(1 - count / samples, samples, (0.0,) * count + right)

    def test_one_standard_error_is_kept_from_the_budget(self) -> None:
        budget = Budget.parse(0.05)
        assert [likely_holds(self.ORIGINAL, self.wrong(n), budget, Direction.HIGHER) for n in range(8)] == [
            *([True] * 3),
            *([False] * 5),
        ]

    def test_more_samples_need_less_of_a_margin(self) -> None:
        original = Scores(1.0, 10_000, (1.0,) * 10_000)
        assert likely_holds(original, self.wrong(450, 10_000), Budget.parse(0.05), Direction.HIGHER)
        assert not likely_holds(original, self.wrong(495, 10_000), Budget.parse(0.05), Direction.HIGHER)

    def test_it_holds_in_either_direction(self) -> None:
        zeros, some = Scores(0.0, 100, (0.0,) * 100), Scores(0.02, 100, (1.0,) * 2 + (0.0,) * 98)
        assert likely_holds(zeros, some, Budget.parse(0.05), Direction.LOWER)
        assert not likely_holds(zeros, some, Budget.parse(0.02), Direction.LOWER)

    def test_the_first_samples_alone_are_compared_with_the_first(self) -> None:
        few = Scores(1.0, 40, (1.0,) * 40)
        assert likely_holds(self.ORIGINAL, few, Budget.parse(0.05), Direction.HIGHER)

    def test_the_loss_is_that_of_the_samples_that_were_read(self) -> None:
        """The first samples may be harder than the rest: a model that changes nothing loses nothing on them."""
        original = Scores(0.8, 100, (0.0,) * 20 + (1.0,) * 80)
        few = Scores(0.5, 40, original.per_sample[:40])
        assert likely_holds(original, few, Budget.parse(0.1), Direction.HIGHER)
        easier = Scores(0.8, 100, (1.0,) * 80 + (0.0,) * 20)
        worse = Scores(0.85, 40, (1.0,) * 34 + (0.0,) * 6)
        assert not likely_holds(easier, worse, Budget.parse(0.1), Direction.HIGHER)

    def test_f1_keeps_a_margin_too(self) -> None:
        """Of the first samples alone as well."""
        loss = 1 - f1(4, 200).value
        for tuned in (f1(4, 200), first_samples(f1(4, 400), 200)):
            assert not likely_holds(f1(0, 400), tuned, Budget.parse(loss * 1.1), Direction.HIGHER)
            assert likely_holds(f1(0, 400), tuned, Budget.parse(loss * 2), Direction.HIGHER)

    def test_a_single_number_alone_decides(self) -> None:
        assert likely_holds(Scores(0.9, 9), Scores(0.85, 9), Budget.parse(0.05), Direction.HIGHER)
        assert not likely_holds(Scores(0.9, 9), Scores(0.84, 9), Budget.parse(0.05), Direction.HIGHER)
