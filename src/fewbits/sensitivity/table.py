"""What each group costs in accuracy when it alone leaves fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Harm:
    """What a scheme of one group alone does, by one of the measures (`fewbits.sensitivity.measure`), with its standard
    error (over samples; 0 where it was derived and not measured)."""

    value: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class SensitivityTable:
    """`harm`: group name → scheme text → harm."""

    harm: Mapping[str, Mapping[str, Harm]]

    @property
    def values(self) -> Mapping[str, Mapping[str, float]]:
        """The harms without their errors."""
        return {name: {scheme: one.value for scheme, one in schemes.items()} for name, schemes in self.harm.items()}
