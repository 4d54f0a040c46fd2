"""The machine on which a figure was taken, and its GPUs."""

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

    def summary(self, runtime: str) -> str:
        """What a measurement hangs on, in a line: the CPU, its features, and the version of `runtime`."""
        return f"{self.cpu}; {' '.join(self.features)}; {runtime} {self.versions.get(runtime, 'unknown')}"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device: its name, and its compute capability as major and minor version."""

    name: str
    capability: tuple[int, int]

    @property
    def architecture(self) -> str:
        """Compute capability as compilers write it, ``sm_90``."""
        return f"sm_{self.capability[0]}{self.capability[1]}"
