"""Harm as text: each measure has its unit, and words that say what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, log10

from fewbits.report.words import significant


@dataclass(frozen=True, slots=True)
class HarmText:
    """How harm by one measure is written: `title` heads a column, `name` stands in a sentence, `alone` says what it is
    of a group and `together` what the sum over groups is; `figure` writes a value, `with_error` a value with its
    standard error."""

    title: str
    name: str
    alone: str
    together: str
    figure: Callable[[float], str]
    with_error: Callable[[float, float], str]


def harm_text(measure: str) -> HarmText:
    """How harm by the measure of this name (`RunRecord.measure`) is written."""
    return _TEXTS[measure]


def _percent(value: float) -> str:
    return f"{significant(value * 100, 2)}%"


def _percent_with_error(value: float, error: float) -> str:
    text = f"{_percent(value)} +- {significant(error * 100, 1)}"
    return f"{text}, {-10 * log10(value):.0f} dB" if 0 < value < inf else text


def _plain(value: float) -> str:
    return significant(value, 2)


def _plain_with_error(value: float, error: float) -> str:
    return f"{_plain(value)} +- {significant(error, 1)}"


_TEXTS: Mapping[str, HarmText] = {
    "output": HarmText(
        "output error",
        "relative output error",
        "the relative squared error of the outputs that it alone causes, with its standard error, and the signal to "
        "noise ratio (SQNR), which is its reciprocal",
        "output error: predicted, squared and relative",
        _percent,
        _percent_with_error,
    ),
    "kl": HarmText(
        "KL, nats",
        "divergence in nats",
        "the Kullback-Leibler divergence of the class probabilities that it alone causes, in nats, with its standard "
        "error",
        "KL: predicted divergence of the class probabilities",
        _plain,
        _plain_with_error,
    ),
    "loss": HarmText(
        "summed loss",
        "loss of the metric",
        "the loss of the metric that it alone causes, in the metric's unit, with its standard error; where no sample "
        "tells, the output error, which counts for less than one sample",
        "summed loss: predicted from the losses of single groups, in the metric's unit",
        _plain,
        _plain_with_error,
    ),
}
