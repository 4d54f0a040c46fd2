"""The measures of harm: what a scheme that one group has alone does to the outputs, or to the user's own score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fewbits.data.batches import Arrays
from fewbits.errors import UsageError
from fewbits.evaluation import Direction
from fewbits.sensitivity.divergence import check_classes, divergence
from fewbits.sensitivity.output_error import output_error
from fewbits.sensitivity.ratio import Ratio
from fewbits.sensitivity.table import Harm

AUTO: Final = "auto"
OUTPUT: Final = "output"
KL: Final = "kl"
LOSS: Final = "loss"
NAMES: Final = (AUTO, OUTPUT, KL, LOSS)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model gave: outputs by batch, and one score per sample where the measure is `scored`."""

    outputs: Sequence[Arrays] = ()
    scores: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """Harm of what the changed model gave, beside what the original gave: 0 for the same, never below 0.

    `scored`: it reads scores besides outputs. `power`: a metric's loss goes about as this power of the harm.
    """

    name: str
    harm: Callable[[Seen, Seen], Harm]
    power: float
    scored: bool = False


def measure(name: str, outputs: Arrays, direction: Direction) -> Measure:
    """The measure called `name`, for a model that gives `outputs` and a score that is better in `direction`:

    - ``output``: relative squared output error;
    - ``kl``: Kullback-Leibler divergence of class probabilities, for classifiers and language models;
    - ``loss``: what the score loses, on paired samples, and where no sample tells, the output error, which counts for
      less than one sample;
    - ``auto``: ``output``.

    Raises UsageError on another name, and where ``kl`` does not fit the outputs.
    """
    if name in (AUTO, OUTPUT):
        return Measure(OUTPUT, lambda before, after: output_error(before.outputs, after.outputs).harm, _SQUARED)
    if name == KL:
        check_classes(outputs)
        return Measure(KL, lambda before, after: divergence(before.outputs, after.outputs).harm, _SQUARED)
    if name == LOSS:
        return Measure(LOSS, lambda before, after: _lost(before, after, direction), 1.0, scored=True)
    raise UsageError(f"{name!r} is no measure of sensitivity; choose {', '.join(NAMES)}")


_SQUARED: Final = 0.5
"""Output error is squared, and divergence is a quadratic form in what changes; a metric moves about as the change."""


def _lost(before: Seen, after: Seen, direction: Direction) -> Harm:
    if not before.scores or len(before.scores) != len(after.scores):
        raise UsageError(
            "sensitivity by loss needs one score per sample, of the same samples for every model, and the metric gave "
            f"{len(before.scores)} and {len(after.scores)}; return one per sample, or measure it by output"
        )
    lost = np.array(before.scores, dtype=np.float64) - np.array(after.scores, dtype=np.float64)
    turned = lost if direction is Direction.HIGHER else -lost
    found = Ratio(tuple(turned.tolist()), (1.0,) * len(turned)).harm
    # Classes change in few samples or in none, and what changes none would pass for harmless in any number of groups.
    untold = min(output_error(before.outputs, after.outputs).value, 1.0) / len(turned)
    # A gain on so few samples is luck: no scheme is better than the original.
    return Harm(max(found.value, 0.0) + untold, found.error)
