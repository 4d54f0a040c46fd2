"""How a tuning run ended, and what that means for whoever started it."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The end of a run. `advice` says what happened and what to do; `exit_code` is the command line's."""

    MET = "met"
    KEPT_ORIGINAL = "kept_original"
    BUDGET_UNREACHABLE = "budget_unreachable"

    @property
    def advice(self) -> str:
        """What happened and what to do next, in one sentence or two."""
        return _ADVICE[self]

    @property
    def predicted_advice(self) -> str:
        """As `advice`, where costs are predicted and nothing is timed."""
        return _PREDICTED_ADVICE.get(self, self.advice)

    @property
    def exit_code(self) -> int:
        """0 met, 3 budget unreachable, 4 kept original."""
        return _EXIT_CODES[self]


_ADVICE = {
    Outcome.MET: "The converted model is within the accuracy budget and better beyond the noise at what was asked.",
    Outcome.KEPT_ORIGINAL: (
        "No plan within the accuracy budget beats the original beyond the noise, so the original is returned. "
        "Serve it as it is, or try another target or batch size."
    ),
    Outcome.BUDGET_UNREACHABLE: (
        "No plan that gains anything stays within the accuracy budget and the limits. The original is returned as "
        "model.onnx and the closest plan is saved as best.onnx; allow more loss (--max-loss), widen the limits, or "
        "give more calibration data."
    ),
}
_PREDICTED_ADVICE = {
    Outcome.MET: "The converted model costs less by prediction and is within the accuracy budget, by emulation.",
    Outcome.KEPT_ORIGINAL: (
        "No plan within the accuracy budget costs less than the original by prediction, so the original is returned. "
        "Try another target or a larger --max-loss."
    ),
}
_EXIT_CODES = {
    Outcome.MET: 0,
    Outcome.KEPT_ORIGINAL: 4,
    Outcome.BUDGET_UNREACHABLE: 3,
}
