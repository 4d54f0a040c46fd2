"""What shares one scale: every granularity is a tile that is laid over the array."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fewbits.errors import FormatError

Shape = tuple[int, ...]

_TEXT = re.compile(r"(tensor|channel|token|g|block|tile)([0-9x]*)(?:@(-?[0-9]+))?\Z")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One scale for the whole array; text ``tensor``."""

    def tile(self, shape: Shape) -> Shape:
        """The tile over an array of `shape`."""
        return shape

    def __str__(self) -> str:
        return "tensor"


@dataclass(frozen=True, slots=True)
class Channel:
    """One scale for each index along `axis`; text ``channel`` (axis 0) or ``channel@1``."""

    axis: int = 0

    def tile(self, shape: Shape) -> Shape:
        """The tile over an array of `shape`. Raises FormatError if there is no such axis."""
        axis = _axis(self.axis, shape, self)
        return tuple(1 if place == axis else size for place, size in enumerate(shape))

    def __str__(self) -> str:
        return f"channel@{self.axis}" if self.axis else "channel"


@dataclass(frozen=True, slots=True)
class Token:
    """One scale for each row of the last axis; text ``token``."""

    def tile(self, shape: Shape) -> Shape:
        """The tile over an array of `shape`. Raises FormatError for an array without axes."""
        axis = _axis(-1, shape, self)
        return tuple(size if place == axis else 1 for place, size in enumerate(shape))

    def __str__(self) -> str:
        return "token"


@dataclass(frozen=True, slots=True)
class Group:
    """One scale for each `size` neighbours along `axis`, a group or block; text ``g128``, ``g32@0``.

    The last group of a row is shorter where the axis is no multiple of `size`, as if padded with zeros.
    """

    size: int
    axis: int = -1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise FormatError(f"a group has at least one element, not {self.size}")

    def tile(self, shape: Shape) -> Shape:
        """The tile over an array of `shape`. Raises FormatError if there is no such axis."""
        axis = _axis(self.axis, shape, self)
        return tuple(self.size if place == axis else 1 for place in range(len(shape)))

    def __str__(self) -> str:
        return f"g{self.size}" if self.axis == -1 else f"g{self.size}@{self.axis}"


@dataclass(frozen=True, slots=True)
class Tile:
    """One scale for each tile of the last axes; text ``tile24x24``. Border tiles are smaller."""

    sizes: Shape

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise FormatError(f"a tile has at least one axis, and at least one element along each; not {self.sizes}")

    def tile(self, shape: Shape) -> Shape:
        """The tile over an array of `shape`. Raises FormatError if the array has fewer axes than the tile."""
        if len(shape) < len(self.sizes):
            raise FormatError(f"{self} needs an array of {len(self.sizes)} axes or more, not of shape {shape}")
        return (1,) * (len(shape) - len(self.sizes)) + self.sizes

    def __str__(self) -> str:
        return f"tile{'x'.join(map(str, self.sizes))}"


Granularity = Tensor | Channel | Token | Group | Tile


def parse(text: str) -> Granularity:
    """Read `text`, the inverse of ``str``; ``block32`` is another word for ``g32``. Raises FormatError."""
    match = _TEXT.match(text)
    if match is not None:
        word, sizes, axis = match[1], match[2], match[3]
        if word == "tensor" and not sizes and axis is None:
            return Tensor()
        if word == "token" and not sizes and axis is None:
            return Token()
        if word == "channel" and not sizes:
            return Channel(int(axis or 0))
        if word in ("g", "block") and sizes.isdigit():
            return Group(int(sizes), -1 if axis is None else int(axis))
        if word == "tile" and axis is None and all(part.isdigit() for part in sizes.split("x")):
            return Tile(tuple(map(int, sizes.split("x"))))
    raise FormatError(
        f"{text!r} is not a granularity; choose tensor, channel, channel@1 (axis 1), token, g128 (groups of 128 along "
        "the last axis), g128@0, or tile24x24"
    )


def tiles(shape: Shape, tile: Shape) -> Shape:
    """How many tiles there are along each axis, border tiles included: the shape of the scales."""
    return tuple(-(-size // max(step, 1)) for size, step in zip(shape, tile, strict=True))


def _axis(axis: int, shape: Shape, granularity: Granularity) -> int:
    if not -len(shape) <= axis < len(shape):
        raise FormatError(f"{granularity} needs axis {axis}, which an array of shape {shape} does not have")
    return axis % len(shape)
