"""What the layers of one lowered model share in training: the clock, the loss scale, what is measured of errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from fewbits.training.adaptive import Moments, join_scale, layer_scale
from fewbits.training.scalers import LayerAdaptive

_FIELDS = 256
_SHIFT, _FIELD = 23, 0xFF


@dataclass(slots=True, eq=False)
class LayerScale:
    """The loss scale of one layer: of the errors as they arrive, as they are computed with, and of what leaves."""

    arriving: float = 1.0
    computing: float = 1.0
    leaving: float = 0.0
    """Largest magnitude of the errors that leave, without scale."""


@dataclass(slots=True, eq=False)
class Watch:
    """`clock` counts forward passes; `measuring` says that this backward pass is looked at.

    `consumers` names for each layer those whose errors reach it; `scales` has the layers' scales (`adaptive` only),
    `exponents` the histogram of the errors that were cast since it was last taken.
    """

    clock: torch.Tensor
    adaptive: LayerAdaptive | None = None
    least: float = 0.0
    largest: float = 0.0
    measuring: bool = False
    loss_scale: float = 1.0
    consumers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scales: dict[str, LayerScale] = field(default_factory=dict)
    exponents: torch.Tensor = field(default_factory=lambda: torch.zeros(_FIELDS, dtype=torch.int64))

    def factor(self, name: str, error: torch.Tensor, weight: torch.Tensor, depth: int) -> float:
        """What the errors of the layer `name`, at the scale of the loss, are multiplied by before they are cast.

        `depth` is how many products one outgoing error sums.
        """
        if self.adaptive is None:
            return 1.0
        if self.measuring:
            self._measure(name, error, weight, depth, self.adaptive)
        return self.scales[name].computing if name in self.scales else 1.0

    def leaving(self, name: str, error: torch.Tensor) -> None:
        """Take note of what leaves the layer, at the scale of the loss."""
        if self.measuring and self.adaptive is not None and name in self.scales:
            self.scales[name].leaving = float(error.abs().amax()) / self.loss_scale

    def count(self, error: torch.Tensor) -> None:
        """Add the exponents of `error`, float32, to the histogram; zeros are left out."""
        if self.measuring and self.adaptive is None:
            fields = (error.contiguous().view(torch.int32) >> _SHIFT) & _FIELD
            counts = torch.bincount(fields.reshape(-1), minlength=_FIELDS).cpu()
            counts[0] = 0
            self.exponents += counts

    def take_exponents(self) -> tuple[int, ...]:
        """The histogram, which then begins anew."""
        counts = tuple(int(count) for count in self.exponents.tolist())
        self.exponents = torch.zeros(_FIELDS, dtype=torch.int64)
        return counts

    def _measure(
        self, name: str, error: torch.Tensor, weight: torch.Tensor, depth: int, settings: LayerAdaptive
    ) -> None:
        arriving = self._arriving(name)
        found = _moments(error, self.loss_scale)
        beta = layer_scale(
            # The equations are about the errors at the scale that they arrive with.
            Moments(found.mean * arriving, found.deviation * arriving, found.largest * arriving),
            _moments(weight, 1.0),
            depth,
            arriving,
            least=self.least,
            largest=self.largest,
            tolerance=settings.tolerance,
            layer_bound=settings.layer,
            total_bound=settings.total,
        )
        self.scales[name] = LayerScale(arriving, arriving * beta / self.loss_scale)

    def _arriving(self, name: str) -> float:
        """The scale that the errors of `name` arrive with: that of the layers they come from, joined."""
        found = [self.scales[consumer] for consumer in self.consumers.get(name, ()) if consumer in self.scales]
        if not found:
            return self.loss_scale
        alphas = [scale.computing * self.loss_scale for scale in found]
        return join_scale(alphas, [scale.leaving for scale in found], self.largest)


def consumers_of(loss: torch.Tensor, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Layer → the layers whose errors reach it first in the backward pass of `loss`, read from its graph."""
    wanted = set(names)
    found: dict[str, dict[str, None]] = {}
    # A node is looked at once for every layer that its errors come from.
    seen: set[tuple[int, str]] = set()
    waiting = [(loss.grad_fn, "")]
    keep = []  # so that no address is used twice
    while waiting:
        node, source = waiting.pop()
        if node is None or (id(node), source) in seen:
            continue
        seen.add((id(node), source))
        keep.append(node)
        name = _layer_of(node)
        if name in wanted:
            found.setdefault(name, {})
            if source:
                found[name][source] = None
            source = name
        waiting.extend((following, source) for following, _ in node.next_functions)
    return {name: tuple(sources) for name, sources in found.items()}


def _layer_of(node: object) -> str:
    """The layer whose product the node of an autograd graph is; empty for other nodes."""
    known = isinstance(node, torch.autograd.function.BackwardCFunction) and "layer" in vars(node)
    return str(vars(node)["layer"]) if known else ""


def _moments(x: torch.Tensor, scale: float) -> Moments:
    x = x.detach().float()
    if x.numel() < 2:
        return Moments(0.0, 0.0, 0.0)
    deviation, mean = torch.std_mean(x, correction=0)
    numbers = torch.stack([mean, deviation, x.abs().amax()]).tolist()
    return Moments(*(number / scale for number in numbers))
