"""Whether what a model was measured to cost is within limits, and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Final

from fewbits.amounts import LATENCY
from fewbits.limits import UNLIMITED, Limits
from fewbits.measurement import Interval, Latency
from fewbits.verify.paired import median_interval

_ONE_ERROR: Final = 0.6827
"""Confidence of an interval that reaches one standard error to both sides, if the noise were normal."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one model was measured to cost: seconds per call with the interval of their median, ``None`` where it was
    not timed, and bytes of its file."""

    seconds: Interval | None = None
    size: int = 0

    @classmethod
    def of(cls, latency: Latency, size: int) -> Figures:
        """From the blocks of `latency`."""
        return cls(seconds_of(latency), size)


@dataclass(frozen=True, slots=True)
class Limited:
    """Limits, and the original and the tuned model beside them."""

    limits: Limits = UNLIMITED
    original: Figures = field(default_factory=Figures)
    tuned: Figures = field(default_factory=Figures)

    @property
    def original_misses(self) -> str:
        """What limit the original misses, as a sentence; "" if none."""
        return missed(self.limits, self.original, "The original")

    @property
    def tuned_misses(self) -> str:
        """What limit the tuned model misses, as a sentence; "" if none."""
        return missed(self.limits, self.tuned, "The tuned model")

    @property
    def kept(self) -> str:
        """What limits the tuned model keeps, as a sentence; "" where there are none."""
        return kept(self.limits, self.tuned, "The tuned model")


def seconds_of(latency: Latency, confidence: float = 0.95) -> Interval:
    """Seconds per call with the interval of their median over rounds."""
    found = median_interval([median(block) for block in latency.blocks], confidence)
    return Interval(latency.median, min(found.low, latency.median), max(found.high, latency.median), found.confidence)


def likely_within(limits: Limits, latency: Latency, size: int) -> bool:
    """Whether it is within the limits with about one standard error of its latency as a margin: of several plans that
    are close to a limit, the one that is picked would else be one that happened to be fast."""
    return limits.hold(seconds_of(latency, _ONE_ERROR).high, size)


def missed(limits: Limits, figures: Figures, who: str) -> str:
    """What `figures` of `who` miss of `limits`, as a sentence; "" if nothing."""
    parts = []
    if limits.seconds is not None and figures.seconds is not None and figures.seconds.value > limits.seconds:
        parts.append(f"takes {_time(figures.seconds)} per call, more than the allowed {LATENCY.text(limits.seconds)}")
    if limits.size is not None and figures.size > limits.size:
        parts.append(f"has {figures.size:,} bytes, more than the allowed {limits.size:,}")
    return f"{who} {' and '.join(parts)}." if parts else ""


def kept(limits: Limits, figures: Figures, who: str) -> str:
    """What `figures` of `who`, which miss nothing, are beside `limits`, as a sentence; "" where there are none."""
    parts = []
    if limits.seconds is not None and figures.seconds is not None:
        doubt = "; the interval reaches beyond it" if figures.seconds.high > limits.seconds else ""
        allowed = LATENCY.text(limits.seconds)
        parts.append(f"takes {_time(figures.seconds)} per call, within the allowed {allowed}{doubt}")
    if limits.size is not None:
        parts.append(f"has {figures.size:,} bytes, within the allowed {limits.size:,}")
    return f"{who} {' and '.join(parts)}." if parts else ""


def _time(seconds: Interval) -> str:
    low, value, high = (f"{one * 1e3:.4g}" for one in (seconds.low, seconds.value, seconds.high))
    return f"{value} ms ({seconds.confidence:.0%} interval {low} to {high})"
