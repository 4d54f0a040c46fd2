"""What a conversion to mixed precision came to, to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from fewbits.measurement import Interval
from fewbits.models.protocol import Artifact
from fewbits.plan import Choice, Plan

_SHOWN = 12


@dataclass(frozen=True)
class MixedReport:
    """`choices` by group; `remarks` are sentences for the reader; `scores` those of the original and of the result,
    `evaluations` how many conversions were evaluated; `bytes` those of the stored original and of the result;
    `speedup` original over result, and on which `target`, where it was measured."""

    precision: str
    choices: Mapping[str, Choice]
    bytes: tuple[int, int]
    remarks: tuple[str, ...] = ()
    metric: str = ""
    scores: tuple[float, float] | None = None
    evaluations: int = 0
    speedup: Interval | None = None
    target: str = ""

    @property
    def low(self) -> tuple[str, ...]:
        """The groups that left float32."""
        return tuple(name for name, choice in self.choices.items() if choice.scheme != "fp32")

    def __str__(self) -> str:
        lines = [f"{len(self.low)} of {len(self.choices)} groups in {self.precision}"]
        kept = {name: choice.reason for name, choice in self.choices.items() if choice.scheme == "fp32"}
        for reason, count in Counter(kept.values()).most_common():
            names = [name for name, why in kept.items() if why == reason]
            shown = ", ".join(names[:_SHOWN]) + (f" and {count - _SHOWN} more" if count > _SHOWN else "")
            lines.append(f"in fp32, because {reason}: {shown}")
        before, after = self.bytes
        lines.append(f"size: {after / 1e6:.3g} MB instead of {before / 1e6:.3g} MB ({after / before:.2f}x)")
        if self.scores is not None:
            original, found = self.scores
            lines.append(
                f"{self.metric}: {found:.6g} instead of {original:.6g}, {self.evaluations} "
                f"conversion{'s' if self.evaluations != 1 else ''} evaluated"
            )
        if self.speedup is not None:
            one = self.speedup
            lines.append(f"speed: {one.value:.2f}x [{one.low:.2f}, {one.high:.2f}] on {self.target}")
        return "\n".join([*lines, *self.remarks])


@dataclass(frozen=True)
class Fitted:
    """The converted model with its plan and what there is to say."""

    artifact: Artifact
    plan: Plan
    report: MixedReport = field(repr=False)
