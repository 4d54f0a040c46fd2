"""The machine on which a figure was taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """CPU, its features that matter for low precision, memory, system, and versions of what ran."""

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_bytes: int
    system: str
    versions: Mapping[str, str]
