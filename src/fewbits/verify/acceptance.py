"""The last decision: did the accuracy hold, is it better for sure, and what is the outcome. No model, no runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from statistics import median
from typing import Final

from fewbits.budget import Budget
from fewbits.errors import MetricError
from fewbits.evaluation import Direction, Scores
from fewbits.measurement import Comparison, Interval, MemoryComparison
from fewbits.outcome import Outcome
from fewbits.record import Accuracy, PredictedCost
from fewbits.verify.paired import difference_interval, mean_interval
from fewbits.verify.resampling import first_samples, resampled_loss, resampled_score
from fewbits.verify.within import Limited

_ONE_ERROR: Final = 0.6827
"""Confidence of an interval that reaches one standard error to both sides."""
_FREE: Final = Limited()
_NOTHING_BETTER: Final = "The original is within the limits, and nothing is more accurate than it."


class Objective(StrEnum):
    """What is made as low as the accuracy budget allows; or the accuracy, as high as the limits allow."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SIZE = "size"
    MEMORY = "memory"
    ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome and the sentence that says why."""

    outcome: Outcome
    reason: str


def compare_accuracy(name: str, direction: Direction, original: Scores, tuned: Scores, budget: Budget) -> Accuracy:
    """The metric `name` of both models on the acceptance split, with intervals.

    A single number gives intervals of width 0.

    Raises:
        MetricError: a relative budget with an original score of 0, or scores of different samples.
    """
    if len(original.per_sample) != len(tuned.per_sample):
        raise MetricError(
            f"{name} gave {len(original.per_sample)} per-sample scores for the original and "
            f"{len(tuned.per_sample)} for the tuned model; it must score the same samples in the same order"
        )
    return Accuracy(
        metric=name,
        direction=direction,
        original=_mean(original),
        tuned=_mean(tuned),
        loss=_loss(original, tuned, budget, direction),
        max_loss=budget.amount,
        relative=budget.relative,
        samples=original.samples,
    )


def holds(accuracy: Accuracy) -> bool:
    """Whether the measured loss is within the budget."""
    return _budget(accuracy).holds(accuracy.loss.value)


def holds_for_sure(accuracy: Accuracy) -> bool:
    """Whether the whole interval of the loss is within the budget."""
    return _budget(accuracy).holds(accuracy.loss.high)


def likely_holds(original: Scores, tuned: Scores, budget: Budget, direction: Direction) -> bool:
    """Whether the loss and one standard error of it are within `budget`; a single number says nothing of its error, so
    that the loss alone counts.

    `tuned` may have scored the first samples of `original` alone. Whoever picks the cheapest of several plans picks
    those whose loss happens to be low: without a margin, every second one would miss a budget that it just held.
    """
    if tuned.pooled.rows:
        paired, scale = first_samples(original, tuned.samples), budget.scale(original)
        return budget.holds(resampled_loss(paired, tuned, direction, scale=scale, confidence=_ONE_ERROR).high)
    if not tuned.per_sample:
        return budget.holds(budget.loss(original, tuned, direction))
    before = original.per_sample[: len(tuned.per_sample)]
    pair = (before, tuned.per_sample) if direction is Direction.HIGHER else (tuned.per_sample, before)
    return budget.holds(difference_interval(*pair, _ONE_ERROR).high / budget.scale(original))


def speedup(comparison: Comparison, name: str) -> Interval:
    """The paired speedup of candidate `name` over the baseline. Raises KeyError if it was not timed."""
    return comparison.speedups[name]


def is_faster(gain: Interval) -> bool:
    """Whether a speedup is above 1 beyond the noise: its whole interval is."""
    return gain.low > 1


def verdict(
    objective: Objective,
    accuracy: Accuracy,
    gain: Interval | None,
    original_bytes: int,
    tuned_bytes: int,
    limited: Limited = _FREE,
    memory: MemoryComparison | None = None,
) -> Verdict:
    """The outcome of a tuned model: `gain` is its paired speedup over the original, ``None`` if it was not timed;
    `memory` compares it with the original, ``None`` if its memory was not measured.

    A loss beyond the budget, or a limit that the tuned model misses, is ``budget_unreachable``; no sure gain on the
    objective is ``kept_original``, unless the original misses a limit, which is reason enough to replace it; else
    ``met``. Budget and limits are held against what was measured; the reason says if an interval reaches beyond.
    """
    if holds(accuracy) and limited.tuned_misses:
        return Verdict(Outcome.BUDGET_UNREACHABLE, f"{limited.tuned_misses} {_within(accuracy)}.")
    if objective is Objective.MEMORY:
        better, what = _memory_gain(gain, memory)
    else:
        better, what = _GAINS[objective](gain, original_bytes, tuned_bytes)
    instead = limited.original_misses
    said = (what, limited.kept, instead) if better or instead else (what or _NOTHING_BETTER,)
    return _verdict(accuracy, better or bool(instead), " ".join(one for one in said if one))


def predicted_verdict(accuracy: Accuracy, cost: PredictedCost) -> Verdict:
    """The outcome of a tuned model whose cost is predicted: as `verdict`, with a prediction in the place of a figure.

    Where the original has no predicted cost, every plan within the budget is a gain: it can run there.
    """
    return _verdict(accuracy, *_predicted_gain(cost))


def _predicted_gain(cost: PredictedCost) -> tuple[bool, str]:
    figure = f"The tuned model has {cost.tuned:.4g} {cost.unit} by prediction of {cost.model}"
    if cost.original < 0:
        return True, f"{figure}, which has no cost for the original."
    if cost.tuned >= cost.original:
        return False, f"{figure}, against {cost.original:.4g} of the original: no gain."
    return True, f"{figure}, {cost.original / cost.tuned:.2f}x less than the original's {cost.original:.4g}."


def _verdict(accuracy: Accuracy, better: bool, what: str) -> Verdict:
    if not holds(accuracy):
        beyond = f", more than the allowed {_budget(accuracy)}" if _budget(accuracy).is_limit else ""
        return Verdict(Outcome.BUDGET_UNREACHABLE, f"{_loss_text(accuracy)}{beyond}.")
    if not better:
        return Verdict(Outcome.KEPT_ORIGINAL, what)
    return Verdict(Outcome.MET, f"{what} {_within(accuracy)}.")


def _within(accuracy: Accuracy) -> str:
    if not _budget(accuracy).is_limit:
        return _loss_text(accuracy)
    return f"{_loss_text(accuracy)}, within the allowed {_budget(accuracy)}{_doubt(accuracy)}"


def _timed_gain(what: str, gain: Interval | None, _original_bytes: int, _tuned_bytes: int) -> tuple[bool, str]:
    if gain is None:
        return False, "Nothing was timed, so no gain is shown."
    figure = (
        f"{gain.value:.2f}x the {what} of the original ({_percent(gain)} interval {gain.low:.2f} to {gain.high:.2f})"
    )
    if is_faster(gain):
        return True, f"The tuned model has {figure}."
    return False, f"The tuned model has {figure}: not faster beyond the noise."


def _size_gain(gain: Interval | None, original_bytes: int, tuned_bytes: int) -> tuple[bool, str]:
    figure = f"{tuned_bytes:,} bytes against {original_bytes:,} of the original"
    if tuned_bytes >= original_bytes:
        return False, f"The tuned model has {figure}: not smaller."
    return True, f"The tuned model has {figure}.{_slower(gain)}"


def _memory_gain(gain: Interval | None, memory: MemoryComparison | None) -> tuple[bool, str]:
    if memory is None:
        return False, "The memory was not measured, so no gain is shown."
    (name, saved), *_ = memory.savings.items()
    figure = (
        f"The process of the tuned model takes {_mebibytes(median(memory.peaks[name]))} MiB at its peak against "
        f"{_mebibytes(median(memory.peaks[memory.baseline]))} MiB of the original's, Python and the runtime included: "
        f"{_mebibytes(saved.value)} MiB less ({_percent(saved)} interval {_mebibytes(saved.low)} to "
        f"{_mebibytes(saved.high)})"
    )
    if saved.low <= 0:
        return False, f"{figure}, which is no less beyond what repeated measurements scatter."
    return True, f"{figure}.{_slower(gain)}"


def _slower(gain: Interval | None) -> str:
    """The remark on a model that wins on something else than time."""
    if gain is None or gain.high >= 1:
        return ""
    return f" It is slower: {gain.value:.2f}x the speed of the original."


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f}"


def _accuracy_gain(_gain: Interval | None, _original_bytes: int, _tuned_bytes: int) -> tuple[bool, str]:
    """Nothing is more accurate than the original: another model is only of use where that is beyond a limit."""
    return False, ""


_GAINS: Final[Mapping[Objective, Callable[[Interval | None, int, int], tuple[bool, str]]]] = {
    Objective.LATENCY: partial(_timed_gain, "speed"),
    Objective.THROUGHPUT: partial(_timed_gain, "throughput"),
    Objective.SIZE: _size_gain,
    Objective.ACCURACY: _accuracy_gain,
}


def _budget(accuracy: Accuracy) -> Budget:
    return Budget(accuracy.max_loss, accuracy.relative)


def _mean(scores: Scores) -> Interval:
    if scores.per_sample:
        return mean_interval(scores.per_sample)
    if scores.pooled.rows:
        return resampled_score(scores)
    return Interval(scores.value, scores.value, scores.value)


def _loss(original: Scores, tuned: Scores, budget: Budget, direction: Direction) -> Interval:
    if original.pooled.rows:
        return resampled_loss(original, tuned, direction, scale=budget.scale(original))
    value = budget.loss(original, tuned, direction)
    if not original.per_sample:
        return Interval(value, value, value)
    pair = (original, tuned) if direction is Direction.HIGHER else (tuned, original)
    plain = difference_interval(pair[0].per_sample, pair[1].per_sample)
    # The original's score is taken as known: its own spread is shared by both sides of the pair.
    scale = budget.scale(original)
    return Interval(value, min(plain.low / scale, value), max(plain.high / scale, value), plain.confidence)


def _loss_text(accuracy: Accuracy) -> str:
    loss = accuracy.loss
    unit = "relative loss" if accuracy.relative else "loss"
    text = f"The {unit} of {accuracy.metric} is {_amount(loss.value, accuracy.relative)}"
    if loss.low == loss.high:
        return text
    low, high = _amount(loss.low, accuracy.relative), _amount(loss.high, accuracy.relative)
    return f"{text} ({_percent(loss)} interval {low} to {high}, {accuracy.samples} samples)"


def _doubt(accuracy: Accuracy) -> str:
    return "" if holds_for_sure(accuracy) else "; the interval reaches beyond it, which more data would narrow"


def _amount(value: float, relative: bool) -> str:
    return f"{value * 100:.2f}%" if relative else f"{value:.4g}"


def _percent(interval: Interval) -> str:
    return f"{interval.confidence:.0%}"
