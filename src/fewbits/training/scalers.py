"""Loss scaling as arithmetic: frozen settings, a frozen state, and the next state from what a step saw.

Sources: Micikevicius et al., Mixed Precision Training, arXiv 1710.03740, section 3.2 (static and dynamic scales);
Mellempudi et al., Mixed Precision Training With 8-bit Floating Point, arXiv 1905.12334, section 3.1 (a floor that
rises); Zhao et al., Adaptive Loss Scaling, arXiv 1910.12385 (layer-wise). No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite, log2

from fewbits.errors import DivergenceError, RecipeError

_LARGEST = 2.0**127
_RISING_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class ScaleState:
    """Where a scaler stands: `scale` of the loss, clean steps since the last change, overflows in a row.

    `floor` is what the scale does not fall below now; `left` how many more overflows are borne before it falls.
    """

    scale: float
    clean: int = 0
    left: int = 1
    overflows: int = 0
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scaler is told after the backward pass of one step.

    `exponents` is a histogram of the exponents of the errors before they were cast (256 counts, by the exponent field
    of float32; empty where this step did not look), `least` and `largest` the range of the format they were cast to.
    """

    overflow: bool
    exponents: tuple[int, ...] = ()
    least: float = 0.0
    largest: float = 0.0


@dataclass(frozen=True, slots=True)
class NoScale:
    """The loss as it is; a step with a non-finite gradient is skipped. Text ``none``."""

    def begin(self) -> ScaleState:
        """The state before the first step."""
        return ScaleState(1.0)

    def advance(self, state: ScaleState, seen: Seen) -> ScaleState:
        """The state after a step that saw `seen`."""
        return replace(state, overflows=state.overflows + 1 if seen.overflow else 0)

    def looks(self, step: int) -> bool:
        """Whether the errors of step number `step` are to be looked at."""
        return step < 0

    def __str__(self) -> str:
        return "none"


@dataclass(frozen=True, slots=True)
class Static:
    """One scale for the whole training. Text ``static scale=1024``."""

    scale: float = 1024.0

    def __post_init__(self) -> None:
        _check_positive(self, "scale")

    def begin(self) -> ScaleState:
        """The state before the first step."""
        return ScaleState(self.scale)

    def advance(self, state: ScaleState, seen: Seen) -> ScaleState:
        """The state after a step that saw `seen`."""
        return replace(state, overflows=state.overflows + 1 if seen.overflow else 0)

    def looks(self, step: int) -> bool:
        """Whether the errors of step number `step` are to be looked at."""
        return step < 0

    def __str__(self) -> str:
        return _text("static", self)


@dataclass(frozen=True, slots=True)
class Dynamic:
    """A scale that grows after `interval` clean steps and falls when a gradient is not finite.

    The defaults are torch's and the paper's. `hysteresis` is how many overflows make the scale fall; `patience`
    overflows in a row at the floor stop the training with a DivergenceError, as then no scale helps.
    Text ``dynamic``, with what differs from the defaults: ``dynamic initial=1024 floor=1``.
    """

    initial: float = 65536.0
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000
    floor: float = 2.0**-14
    ceiling: float = 2.0**24
    hysteresis: int = 1
    patience: int = 10

    def __post_init__(self) -> None:
        _check_dynamic(self)

    def begin(self) -> ScaleState:
        """The state before the first step."""
        return ScaleState(self.initial, left=self.hysteresis, floor=self.floor)

    def advance(self, state: ScaleState, seen: Seen) -> ScaleState:
        """The state after a step that saw `seen`. Raises DivergenceError."""
        return _advance(self, state, seen.overflow)

    def looks(self, step: int) -> bool:
        """Whether the errors of step number `step` are to be looked at."""
        return step < 0

    def __str__(self) -> str:
        return _text("dynamic", self)


@dataclass(frozen=True, slots=True)
class RisingFloor:
    """`Dynamic` with a floor that only rises, so that stray overflows do not drive small errors into nothing.

    The paper places the floor's steps by watching the loss. Here every `period` steps the share of the errors that the
    format loses is read from their exponents: if it is above `share`, the floor rises to the least power of two that
    brings it down to `share`, as long as the largest error seen stays `headroom` powers of two below the
    format's largest number. Text ``rising_floor``, with what differs: ``rising_floor period=50 share=0.01``.
    """

    initial: float = 65536.0
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000
    floor: float = 2.0**-14
    ceiling: float = 2.0**24
    hysteresis: int = 1
    patience: int = 10
    period: int = 100
    share: float = _RISING_SHARE
    headroom: int = 1

    def __post_init__(self) -> None:
        _check_dynamic(self)
        if self.period < 1 or not 0 < self.share < 1 or self.headroom < 0:
            raise RecipeError(
                "a rising floor has a period of at least 1, a share between 0 and 1, a headroom of 0 or more"
            )

    def begin(self) -> ScaleState:
        """The state before the first step."""
        return ScaleState(self.initial, left=self.hysteresis, floor=self.floor)

    def advance(self, state: ScaleState, seen: Seen) -> ScaleState:
        """The state after a step that saw `seen`. Raises DivergenceError."""
        following = _advance(self, state, seen.overflow)
        if seen.overflow or not any(seen.exponents):
            return following
        wanted = floor_for(seen.exponents, state.scale, seen.least, seen.largest, self.share, self.headroom)
        floor = min(max(following.floor, wanted), self.ceiling)
        return replace(following, floor=floor, scale=max(following.scale, floor))

    def looks(self, step: int) -> bool:
        """Whether the errors of step number `step` are to be looked at."""
        return step % self.period == 0

    def __str__(self) -> str:
        return _text("rising_floor", self)


@dataclass(frozen=True, slots=True)
class LayerAdaptive:
    """A scale for every layer, from the statistics of its errors and weights (`fewbits.training.adaptive`).

    Found anew every `period` steps. `tolerance` is the share of errors that may underflow, `layer` the most that
    one layer may add, `total` the most that has been added at any layer. The loss itself has the scale `initial`,
    which is halved when a gradient is not finite. Text ``layer_adaptive``, with what differs: ``... period=1000``.
    """

    period: int = 1
    tolerance: float = 1e-3
    layer: float = 16.0
    total: float = 1024.0
    initial: float = 1.0
    floor: float = 2.0**-24
    patience: int = 10

    def __post_init__(self) -> None:
        _check_positive(self, "layer", "total", "initial", "floor")
        if self.period < 1 or not 0 < self.tolerance < 1 or self.patience < 1:
            raise RecipeError(
                "layer_adaptive has a period and a patience of at least 1, and a tolerance between 0 and 1"
            )

    def begin(self) -> ScaleState:
        """The state before the first step."""
        return ScaleState(self.initial, floor=self.floor)

    def advance(self, state: ScaleState, seen: Seen) -> ScaleState:
        """The state after a step that saw `seen`. Raises DivergenceError."""
        if not seen.overflow:
            return replace(state, clean=state.clean + 1, overflows=0)
        if state.scale <= state.floor and state.overflows + 1 >= self.patience:
            raise DivergenceError(_diagnosis(state, self.patience))
        return replace(state, scale=max(state.scale / 2, state.floor), clean=0, overflows=state.overflows + 1)

    def looks(self, step: int) -> bool:
        """Whether the errors of step number `step` are to be looked at."""
        return step % self.period == 0

    def __str__(self) -> str:
        return _text("layer_adaptive", self)


NO_SCALE = NoScale()

Scaler = NoScale | Static | Dynamic | RisingFloor | LayerAdaptive

_KINDS: Mapping[str, type[Static] | type[Dynamic] | type[RisingFloor] | type[LayerAdaptive]] = {
    "static": Static,
    "dynamic": Dynamic,
    "rising_floor": RisingFloor,
    "layer_adaptive": LayerAdaptive,
}


def parse_scaler(text: str) -> Scaler:
    """Read the text form of a scaler, the inverse of ``str``. Raises RecipeError."""
    name, *words = text.split() or [""]
    if name == "none" and not words:
        return NoScale()
    if name not in _KINDS:
        raise RecipeError(f"{text!r} is not a scaler; choose none, {', '.join(_KINDS)}")
    kind = _KINDS[name]
    whole = {field.name for field in fields(kind) if field.type == "int"}
    names = {field.name for field in fields(kind)}
    values: dict[str, float] = {}
    for word in words:
        key, _, number = word.partition("=")
        if key not in names:
            raise RecipeError(f"in {text!r}: {name} has no {key!r}; it has {', '.join(sorted(names))}")
        try:
            values[key] = int(number) if key in whole else float(number)
        except ValueError as error:
            raise RecipeError(f"in {text!r}: {number!r} is not a number") from error
    return kind(**values)  # type: ignore[arg-type]  # checked above, field by field


def floor_for(
    exponents: tuple[int, ...], scale: float, least: float, largest: float, share: float, headroom: int
) -> float:
    """The least scale, a power of two, at which at most `share` of the errors underflow; 0 if `scale` does.

    `exponents` counts errors as they were at `scale`, zeros left out, by the exponent field of float32. An error
    underflows when it is below half of `least`. It never asks for more than what keeps the largest error `headroom`
    powers of two below `largest`.
    """
    total = sum(exponents[1:])
    half = round(log2(least)) - 1
    if not total or lost_share(exponents, least) <= share:
        return 0.0
    # Shifting by k powers of two, those with an exponent below half - k are lost.
    lost, shift = 0, 0
    for field in range(1, 256):
        lost += exponents[field]
        if lost > share * total:
            shift = half - (field - 127)
            break
    top = max(field for field in range(1, 256) if exponents[field]) - 127
    room = int(log2(largest)) - headroom - (top + 1)
    shift = min(shift, room)
    return scale * 2.0**shift if shift > 0 else 0.0


def lost_share(exponents: tuple[int, ...], least: float) -> float:
    """Share of the counted errors that lie below half of `least`, the smallest number of their format."""
    total = sum(exponents[1:])
    half = round(log2(least)) - 1
    return sum(exponents[1 : max(half + 127, 1)]) / total if total else 0.0


def _advance(kind: Dynamic | RisingFloor, state: ScaleState, overflow: bool) -> ScaleState:
    floor = max(state.floor, kind.floor)
    if overflow:
        overflows = state.overflows + 1
        if state.scale <= floor and overflows >= kind.patience:
            raise DivergenceError(_diagnosis(state, kind.patience))
        left = state.left - 1
        if left > 0:
            return replace(state, clean=0, left=left, overflows=overflows)
        scale = max(state.scale * kind.backoff, floor)
        # Once the scale has fallen the next overflow makes it fall again, until there was a clean interval.
        return replace(state, scale=scale, clean=0, left=1, overflows=overflows)
    clean = state.clean + 1
    if clean < kind.interval:
        return replace(state, clean=clean, overflows=0)
    grown = min(state.scale * kind.growth, kind.ceiling, _LARGEST)
    return replace(state, scale=max(grown, floor), clean=0, left=kind.hysteresis, overflows=0)


def _diagnosis(state: ScaleState, patience: int) -> str:
    return (
        f"the gradients were not finite {patience} times in a row, and the scale is at its floor, {state.scale:g}: "
        "no scale helps, the training has diverged. Look at the culprit of the last status; a smaller learning rate, "
        "gradient clipping, a later `keep` for that layer, or a format with more range are what usually helps"
    )


def _check_dynamic(kind: Dynamic | RisingFloor) -> None:
    _check_positive(kind, "initial", "growth", "backoff", "floor", "ceiling")
    if not (kind.growth >= 1 >= kind.backoff and kind.floor <= kind.initial <= kind.ceiling):
        raise RecipeError(
            f"{kind}: growth is at least 1, backoff at most 1, and initial lies between floor and ceiling"
        )
    if min(kind.interval, kind.hysteresis, kind.patience) < 1:
        raise RecipeError(f"{kind}: interval, hysteresis and patience are at least 1")


def _check_positive(kind: Scaler, *names: str) -> None:
    for name, value in asdict(kind).items():
        if name in names and not (isfinite(value) and value > 0):
            raise RecipeError(f"{name} of a scaler is a positive number, not {value}")


def _text(name: str, kind: Scaler) -> str:
    defaults = {field.name: field.default for field in fields(kind)}
    return " ".join([name, *(f"{key}={value!r}" for key, value in asdict(kind).items() if value != defaults[key])])
