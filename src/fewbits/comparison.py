"""Which arrays, in which number formats: how much of each array is left in each format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from fewbits.data.batches import Array
from fewbits.data.weights import Weights
from fewbits.errors import FormatError
from fewbits.formats.levels import KMeansFormat
from fewbits.formats.numerics.fidelity import Fidelity, decibels, fidelity
from fewbits.formats.numerics.reach import TileReach, tile_reach
from fewbits.formats.numerics.scales import scales_of
from fewbits.formats.qtensor import QTensor
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scaled import Format, ScaledFormat
from fewbits.formats.text import format_text, parse
from fewbits.graph import Tensor
from fewbits.progress import Progress, Silent

CANDIDATES = (
    "bf16",
    "fp16",
    "fp8_e4m3/tensor",
    "fp8_e5m2/tensor",
    "int8r/channel",
    "int8r/tensor",
    "mxint8",
    "mxfp8_e4m3",
    "bfp8/tile24x24",
    "mxfp6_e2m3",
    "nvfp4",
    "nf4/g64",
    "int4r/g32",
    "int4r/g128",
    "mxfp4",
    "ternary/channel",
)
"""What is compared unless something else is asked for: 16 to 2 bits, one member of every family."""

_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_PROBE = (2,) * 6
"""A shape with more axes than a granularity is likely to name."""
_CAP = 150.0
"""About what float32 resolves, in dB."""
_CHUNK = 1 << 20
_STEP = 1 << 16
"""Elements that count as a step of progress: the time left is judged by sizes, not by tensors."""

Float = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Span:
    """Magnitudes that a format holds in one array: `smallest` (not zero) and `largest`, median over the tiles;
    `lowest` and `highest` are the extremes over them."""

    smallest: float
    largest: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One array in one format. `bits` per element, scales included."""

    bits: float
    fidelity: Fidelity
    span: Span


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a format cannot be applied to an array."""

    reason: str


@dataclass(frozen=True, slots=True)
class Octaves:
    """How many elements have a magnitude in [2**e, 2**(e + 1)), for e = `first`, `first` + 1, …; zeros are in none."""

    first: int
    counts: tuple[int, ...]
    zeros: int


@dataclass(frozen=True, slots=True)
class Row:
    """One array in every candidate format; `cells` are in the order of the formats."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nans: int
    infinities: int
    octaves: Octaves
    cells: tuple[Cell | Refused, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An array that was left out."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Total:
    """One format over all arrays that it can be applied to: `arrays` of them, with `elements` elements.

    `sqnr` is the mean of the arrays' noise to signal ratios, weighted by their numbers of elements, in dB; `bits`
    and the shares are weighted in the same way. `median_sqnr` and `worst_sqnr` are over arrays, each
    counting once; `worst` names the array.
    """

    format: str
    arrays: int
    elements: int
    bits: float
    sqnr: float
    median_sqnr: float
    worst_sqnr: float
    worst: str
    clipped_share: float
    underflowed_share: float
    max_error: float


@dataclass(frozen=True, slots=True)
class FormatComparison:
    """Arrays in formats."""

    formats: tuple[str, ...]
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def totals(self) -> tuple[Total, ...]:
        """One for each format that could be applied to any array, in the order of the formats."""
        applied = [
            (format, [(row, cell) for row in self.rows if isinstance(cell := row.cells[place], Cell)])
            for place, format in enumerate(self.formats)
        ]
        return tuple(_total(format, cells) for format, cells in applied if cells)

    @property
    def worth_their_bits(self) -> tuple[Total, ...]:
        """The best format for every budget of bits: no other has as few bits and a higher SQNR. Fewest bits first."""
        front: list[Total] = []
        for total in sorted(self.totals, key=lambda one: (one.bits, -one.sqnr)):
            if not front or total.sqnr > front[-1].sqnr:
                front.append(total)
        return tuple(front)

    @property
    def worst_first(self) -> tuple[Row, ...]:
        """The arrays by their mean SQNR over the formats, the lowest first."""
        return tuple(sorted(self.rows, key=lambda row: (_mean_sqnr(row), row.name)))


def compare(
    weights: Weights,
    formats: Sequence[str] = CANDIDATES,
    names: Sequence[str] = (),
    progress: Progress | None = None,
) -> FormatComparison:
    """Round every float tensor of `weights` to every format, and see what is left of it.

    One tensor is in memory at a time, with what one format makes of it. A tensor of more than two axes is taken as a
    matrix, first axis by all others: so its elements stand in the sums of a convolution. float16 and bfloat16 are
    widened first, so that the error is the format's alone. NaN and Inf are counted and left out. A format that
    cannot be applied to a tensor gives the reason in place of figures.

    Args:
        weights: the file.
        formats: texts of formats; each is checked before anything is read.
        names: which tensors, all of them if empty.
        progress: told of each tensor and format.

    Raises:
        FormatError: a format is unknown, or can be applied to no array at all.
        DataError: a tensor cannot be read.
    """
    progress = progress or Silent()
    parsed = [checked(text) for text in formats]
    texts = tuple(format_text(format) for format in parsed)
    wanted = [tensor for tensor in weights.tensors if not names or tensor.name in set(names)]
    skipped = [Skipped(tensor.name, reason) for tensor in wanted if (reason := unusable(tensor))]
    usable = [tensor for tensor in wanted if not unusable(tensor)]
    steps = {tensor.name: 1 + tensor.elements // _STEP for tensor in usable}
    progress.stage("comparing formats", sum(steps.values()) * len(parsed))
    rows = []
    for tensor in usable:
        read = widened(weights.read(tensor.name))
        x = as_matrix(read)
        cells = []
        for text, format in zip(texts, parsed, strict=True):
            cells.append(measured(x, format))
            for _ in range(steps[tensor.name]):
                progress.advance(f"{tensor.name} {text}")
        nans, infinities = int(np.count_nonzero(np.isnan(x))), int(np.count_nonzero(np.isinf(x)))
        rows.append(Row(tensor.name, tensor.dtype, read.shape, nans, infinities, octaves(x), tuple(cells)))
    return FormatComparison(texts, tuple(rows), tuple(skipped))


def checked(text: str) -> Format:
    """The format `text`. Raises FormatError if it is unknown, or says too little to be applied to an array."""
    format = parse(text)
    fake_quantize(np.ones(_PROBE, np.float32), format)
    return format


def widened(x: Array) -> Float:
    """`x`, a float array of any precision and byte order, as float32, or float64 if it is that."""
    return x.astype(np.float64, copy=False) if x.dtype.itemsize == 8 else x.astype(np.float32, copy=False)


def as_matrix(x: Float) -> Float:
    """`x`, or if it has more than two axes its first axis by all others."""
    return x.reshape(x.shape[0], -1) if x.ndim > 2 else x


def measured(x: Float, format: Format) -> Cell | Refused:
    """What `format` makes of `x`, or why it cannot be applied."""
    scales = None
    try:
        if isinstance(format, ScaledFormat):
            if x.size > 1 and prod(map(min, format.granularity.tile(x.shape), x.shape)) == 1:
                return Refused(f"a scale for every single element of shape {_shape(x.shape)}")
            scales = scales_of(x, format)
        rounded = fake_quantize(x, format)
    except FormatError as error:
        return Refused(str(error))
    reach = tile_reach(format, x.shape, scales)
    return Cell(stored_bits(format, x.shape), fidelity(x, rounded, reach), _span(reach))


def stored_bits(format: Format, shape: tuple[int, ...]) -> float:
    """Bits per element of an array of `shape` in `format`, its scales included."""
    if not isinstance(format, ScaledFormat):
        return format.bits
    nothing = np.zeros((), np.uint8)
    tile = format.granularity.tile(shape)
    tiles = tuple(-(-size // max(step, 1)) for size, step in zip(shape, tile, strict=True))
    codes, scale = np.broadcast_to(nothing, shape), np.broadcast_to(nothing, tiles)
    fitted = isinstance(format.element, KMeansFormat)
    table = np.broadcast_to(nothing, (*tiles, 1 << format.bits) if fitted else (0,))
    return QTensor(codes, scale, scale, nothing, table, format, "float32").nbytes * 8 / max(prod(shape), 1)


def octaves(x: Float) -> Octaves:
    """How the magnitudes of `x` spread over powers of two."""
    counts: dict[int, int] = {}
    zeros = 0
    line = x.reshape(-1)
    for start in range(0, line.size, _CHUNK):
        part = line[start : start + _CHUNK]
        part = part[np.isfinite(part)]
        zeros += int(np.count_nonzero(part == 0))
        exponents, found = np.unique(np.frexp(part[part != 0])[1] - 1, return_counts=True)
        for exponent, count in zip(exponents.tolist(), found.tolist(), strict=True):
            counts[exponent] = counts.get(exponent, 0) + count
    if not counts:
        return Octaves(0, (), zeros)
    first, last = min(counts), max(counts)
    return Octaves(first, tuple(counts.get(exponent, 0) for exponent in range(first, last + 1)), zeros)


def unusable(tensor: Tensor) -> str:
    """Why `tensor` cannot be compared; empty if it can."""
    if tensor.dtype not in _FLOATS:
        return f"{tensor.dtype}, not a float type of 16 to 64 bits"
    return "" if tensor.elements else "empty"


def _total(format: str, cells: Sequence[tuple[Row, Cell]]) -> Total:
    elements = sum(row.elements for row, _ in cells)
    finite = max(sum(cell.fidelity.finite for _, cell in cells), 1)
    noise = sum(cell.fidelity.noise_to_signal * row.elements for row, cell in cells) / elements
    worst, lowest = min(cells, key=lambda pair: pair[1].fidelity.sqnr)
    return Total(
        format=format,
        arrays=len(cells),
        elements=elements,
        bits=sum(cell.bits * row.elements for row, cell in cells) / elements,
        sqnr=decibels(1.0, noise),
        median_sqnr=median_low(cell.fidelity.sqnr for _, cell in cells),
        worst_sqnr=lowest.fidelity.sqnr,
        worst=worst.name,
        clipped_share=sum(cell.fidelity.clipped for _, cell in cells) / finite,
        underflowed_share=sum(cell.fidelity.underflowed for _, cell in cells) / finite,
        max_error=max(cell.fidelity.max_error for _, cell in cells),
    )


def _mean_sqnr(row: Row) -> float:
    # What is exact in one format must not hide what is lost in another.
    found = [min(max(cell.fidelity.sqnr, -_CAP), _CAP) for cell in row.cells if isinstance(cell, Cell)]
    return sum(found) / len(found) if found else _CAP


def _span(reach: TileReach) -> Span:
    return Span(
        float(np.median(reach.smallest)),
        float(np.median(reach.largest)),
        float(reach.smallest.min()),
        float(reach.largest.max()),
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
