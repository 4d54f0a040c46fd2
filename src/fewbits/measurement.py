"""Figures with their spread and how they were taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the interval that holds it with probability `confidence`."""

    value: float
    low: float
    high: float
    confidence: float = 0.95


class Measure(StrEnum):
    """What is compared: seconds per call, or seconds per sample where several calls run at the same time."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


@dataclass(frozen=True, slots=True)
class Latency:
    """One candidate's seconds per call, or per sample where throughput is measured. `blocks` holds the raw calls (of
    throughput one figure), one tuple per round; `median` is the median over rounds of the block medians."""

    name: str
    median: float
    blocks: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired seconds of what `measure` says. `speedups` gives, for every candidate but the baseline, baseline seconds
    over candidate seconds: above 1 is faster."""

    baseline: str
    latencies: Mapping[str, Latency]
    speedups: Mapping[str, Interval]
    how: str
    measure: Measure = Measure.LATENCY


@dataclass(frozen=True, slots=True)
class MemoryComparison:
    """Peak resident bytes of fresh processes, by candidate, one for each round. `savings` gives, for every candidate
    but the baseline, baseline bytes minus candidate bytes of the same round: above 0 is less memory."""

    baseline: str
    peaks: Mapping[str, tuple[int, ...]]
    savings: Mapping[str, Interval]
    how: str
