"""What a runtime's probe finds out, as values that cross from the probing process to whoever asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeModel:
    """One tiny model: the same operation a few times in a row, in one scheme.

    `file` lies in the probe's folder and has one float32 input ``x`` of `shape`. `kernels` are the compute
    operators of the model as the runtime optimised it, and `precision` what they compute in: ``int8``,
    ``fp32`` or ``mixed``. `refusal` says why the runtime does not load it, "" where it does.
    """

    operation: str
    scheme: str
    file: str
    shape: tuple[int, ...]
    kernels: tuple[str, ...] = ()
    precision: str = ""
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class DotProduct:
    """An integer dot product that tells exact from saturating hardware (oneDNN documentation, "Int8 inference").

    Without VNNI, x86 adds two products in a saturating 16-bit register, so that the sum of two large products
    comes out as 32767.
    """

    operands: str
    expected: int
    got: int

    @property
    def saturates(self) -> bool:
        """Whether the runtime's sum is wrong."""
        return self.got != self.expected


@dataclass(frozen=True, slots=True)
class RuntimeProbe:
    """Everything one runtime's probe found."""

    version: str
    providers: tuple[str, ...]
    models: tuple[ProbeModel, ...]
    dots: tuple[DotProduct, ...]
