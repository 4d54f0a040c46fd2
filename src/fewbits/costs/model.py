"""What a model of hardware sees of a layer, and what it says: an estimate, never a measurement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fewbits.errors import UsageError
from fewbits.formats.integer import IntFormat
from fewbits.formats.levels import TernaryFormat
from fewbits.formats.scaled import Format, element_of
from fewbits.formats.text import format_text

Width = Format | int
"""A format; or a number of bits, which stands for integers of that width (32 for whoever counts bits: fp32 too)."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Work and sizes of one layer, for one sample.

    `op` is the kind of its anchor (`fewbits.graph.Kind`). `macs` counts multiplications with accumulation, the other
    sizes count elements: `weights` those of a constant second operand, `second_elems` those of a second operand that
    is an activation, `in_elems` those of the first operand, of a joint those of all operands. A matrix product has
    `cin` rows of depth, `cout` columns, and its rows in `out_w`. Of more than two spatial axes, `kh` and `out_h` hold
    all but the last, multiplied; of one, they are 1. `stride` is the largest.
    """

    name: str
    op: str
    macs: int
    weights: int
    in_elems: int
    out_elems: int
    cin: int
    cout: int
    kh: int = 1
    kw: int = 1
    stride: int = 1
    groups: int = 1
    out_h: int = 1
    out_w: int = 1
    second_elems: int = 0

    @property
    def depth(self) -> int:
        """Products that are summed for one output."""
        return max(self.cin // self.groups * self.kh * self.kw, 1)

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel reads one input channel."""
        return self.groups > 1 and self.groups == self.cin


@runtime_checkable
class CostModel(Protocol):
    """Estimates the cost of a layer on hardware that is not at hand.

    Costs are finite, not negative, and do not grow when an operand gets fewer bits.
    """

    @property
    def unit(self) -> str:
        """What costs are counted in: ``s``, ``cycles``, ``J``, ``bytes``, ``bops``."""

    @property
    def additive(self) -> bool:
        """Whether the cost of a network is the sum over its layers; if not, it is the largest of them (a peak)."""

    def supports(self, op: str, w: Width, a: Width) -> bool:
        """Whether a layer of kind `op` can have a second operand in `w` and a first one in `a`."""

    def cost(self, layer: LayerSpec, w: Width, a: Width, o: Width) -> float:
        """The cost of `layer` for one sample, with second operand (weight) in `w`, first operand in `a` and output in
        `o`. Raises UsageError where `supports` says no."""


@dataclass(frozen=True, slots=True)
class Widths:
    """The widths of one layer: second operand (weight), first operand, output."""

    w: Width
    a: Width
    o: Width


def total(model: CostModel, layers: Iterable[tuple[LayerSpec, Widths]]) -> float:
    """The cost of a network: the sum over `layers`, or the largest if `model` is not additive; 0 without layers.

    Raises UsageError where `model` does not support a layer.
    """
    costs = [model.cost(layer, width.w, width.a, width.o) for layer, width in layers]
    return sum(costs) if model.additive else max(costs, default=0.0)


def bits_of(width: Width) -> int:
    """Bits of one element, without its share of the scales. Raises UsageError for fewer than one."""
    bits = width if isinstance(width, int) else width.bits
    if bits < 1:
        raise UsageError(f"an operand has at least one bit, not {bits}")
    return bits


def is_integer(width: Width) -> bool:
    """Whether elements are multiplied as integers: ternary ones are, codes of a codebook are not."""
    return isinstance(width, int) or isinstance(element_of(width), IntFormat | TernaryFormat)


def refuse(what: str, layer: LayerSpec, w: Width, a: Width, instead: str) -> UsageError:
    """The error of a model called `what` for widths that it does not support; `instead` is what it does."""
    return UsageError(
        f"{what} has no cost for {layer.op} {layer.name} with weight {_text(w)} and activation {_text(a)}; "
        f"it takes {instead}"
    )


def _text(width: Width) -> str:
    return f"{width} bits" if isinstance(width, int) else format_text(width)
