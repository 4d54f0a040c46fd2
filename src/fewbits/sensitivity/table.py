"""What each group costs and gains when it alone leaves fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SensitivityTable:
    """`harm`: group name → squared output error that its low form alone causes, relative to the
    squared output. `gain`: group name → seconds per call that its low form saves (0 if not known)."""

    harm: Mapping[str, float]
    gain: Mapping[str, float]

    def ranked(self) -> tuple[str, ...]:
        """Group names, the most harmful first; equal harm in name order."""
        return tuple(sorted(self.harm, key=lambda name: (-self.harm[name], name)))
