"""Casts of float32 arrays in C order, compiled by numba: one pass over memory, several threads, no compiler needed.

Same bits as `fewbits.formats.numerics.reference`, whatever the number of threads: an element's result depends on its
tile and on its place alone. The work is cut into boxes that stay in a core's cache from finding the scales to rounding.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, lru_cache
from math import frexp, prod
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fewbits.formats.floating import FloatFormat
from fewbits.formats.granularity import Shape, Tensor, tiles
from fewbits.formats.integer import INT8, IntFormat
from fewbits.formats.kernels.cpu_cast import amax_of_boxes, cast_boxes
from fewbits.formats.kernels.cpu_lattice import (
    WORTH_THREADS,
    Lattice,
    Three,
    any_boxes,
    share,
    task_bounds,
    whole_tiles,
)
from fewbits.formats.kernels.cpu_noise import stream_of
from fewbits.formats.kernels.cpu_round import Division, Loop, loop_for, rounding_loop
from fewbits.formats.kernels.cpu_rule import Rule, can_round, rule_of
from fewbits.formats.kernels.cpu_scales import PIECE, sizing_of, write_scales
from fewbits.formats.kernels.cpu_vector import STREAM_BYTES
from fewbits.formats.numerics.layout import fold
from fewbits.formats.numerics.scales import Scales, limits, middle_code, scales_of, scales_of_amax
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import Format, NestedScale, PowerOfTwoScale, ScaledFormat, element_of

Float32 = NDArray[np.float32]

_NO_SIZING = sizing_of(ScaledFormat(INT8, Tensor()))
_LEAST_POWER = 2.0**-126  # of two that is normal and has a normal inverse
_NO_NOISE = stream_of(NoiseKey(0))
_NOTHING = np.empty((0, 0, 0), np.float32)

_sizing = lru_cache(256)(sizing_of)
_DISPATCHER: Any = cast_boxes  # what numba makes of a function has no types, and neither has its typeof
_TYPEOF: Any = numba.typeof


@lru_cache(1024)
def handles(format: Format, shape: Shape) -> bool:
    """Whether arrays of `shape` can be cast to `format` here; otherwise `fewbits.formats.numerics.reference` does."""
    element = element_of(format)
    if not isinstance(element, IntFormat | FloatFormat) or not can_round(element.grid) or prod(shape) == 0:
        return False
    return not isinstance(format, ScaledFormat) or len(fold(shape, format.granularity.tile(shape))[0]) == 3


def available_threads() -> int:
    """How many threads can run at a time: the processors that this process may use."""
    # Windows and macOS do not say which processors a process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fake_quantize(
    x: Float32,
    out: Float32,
    format: Format,
    scales: Scales[NDArray[Any]] | None = None,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    key: NoiseKey | None = None,
    threads: int | None = None,
    fresh: bool = False,
) -> None:
    """Write `x` rounded to `format` to `out`, which may be `x`; both float32 and in C order.

    `scales` ``None`` takes the array's own. What `handles` refuses may not be passed. `fresh` says that `out` is
    memory that nothing was written to yet: it comes through the caches anyway.
    """
    threads = threads or available_threads()
    known = format if isinstance(format, ScaledFormat) or scales is None else ScaledFormat(format, Tensor())
    if not isinstance(known, ScaledFormat):
        flat = (1, 1, x.size)
        element = known
        assert isinstance(element, IntFormat | FloatFormat)
        _Cast(x, out, element, rounding, overflow, key, threads, fresh).run(whole_tiles(flat, (1, 1, 1)))
        return
    assert isinstance(known.element, IntFormat | FloatFormat)
    cast = _Cast(x, out, known.element, rounding, overflow, key, threads, fresh)
    lattice = _lattice(x.shape, known)
    if scales is None and not known.asymmetric and not isinstance(known.scale, NestedScale):
        # In one pass it is known in the end only whether an element could be infinite; x must then still be there.
        in_place = isinstance(known.scale, PowerOfTwoScale) and np.may_share_memory(x, out)
        one_pass = _is_enough(lattice, threads) and not in_place
        if cast.with_own_scales(lattice, known) if one_pass else cast.with_own_amax(lattice, known):
            return
    cast.with_scales(lattice, known, _own_scales(x, known, threads) if scales is None else scales)


def tile_amax(x: Float32, format: ScaledFormat, threads: int | None = None) -> Float32:
    """The largest finite magnitude of each tile of `x`, float32 in C order; of the shape of the scales."""
    patterns = _amax(x, _lattice(x.shape, format), threads or available_threads())
    return patterns.view(np.float32).reshape(tiles(x.shape, format.granularity.tile(x.shape)))


def _amax(x: Float32, lattice: Lattice, threads: int) -> NDArray[np.uint32]:
    """The bit patterns of the largest finite magnitudes, one for each tile of `lattice`."""
    split = not _is_enough(lattice, threads)
    boxes = any_boxes(lattice.shape, lattice.tile) if split else lattice
    # Where tasks share a tile, each has its own result; there are then few tiles.
    amax = np.zeros((len(task_bounds(boxes, threads)) if split else 1, *lattice.scale_shape), np.uint32)

    def work(task: int, first: int, last: int) -> bool:
        amax_of_boxes(x.reshape(-1), boxes, first, last, amax[task if split else 0])
        return False

    share(work, boxes, threads)
    largest: NDArray[np.uint32] = amax.max(axis=0)
    return largest


def _is_enough(lattice: Lattice, threads: int) -> bool:
    """Whether the boxes of `lattice` keep all threads busy."""
    return len(task_bounds(lattice, threads)) >= threads or prod(lattice.shape) < WORTH_THREADS


def _own_scales(x: Float32, format: ScaledFormat, threads: int) -> Scales[NDArray[Any]]:
    if format.asymmetric:
        return scales_of(x, format)
    return scales_of_amax(tile_amax(x, format, threads), format)


@lru_cache(1024)
def _lattice(shape: Shape, format: ScaledFormat) -> Lattice:
    folded, tile = fold(shape, format.granularity.tile(shape))
    columns, wide = folded[-1], tile[-1]
    if prod(tile) == wide and columns < PIECE and PIECE % wide == 0 and columns % wide == 0:
        # Rows of whole tiles are one long row: a short run would be over before the loops are at speed.
        folded, tile = (1, 1, prod(folded)), (1, 1, wide)
    return whole_tiles(_three(folded), _three(tile))


def _three(shape: Shape) -> Three:
    planes, rows, columns = shape
    return planes, rows, columns


@dataclass(frozen=True, slots=True)
class _Cast:
    x: Float32
    out: Float32
    element: IntFormat | FloatFormat
    rounding: Rounding
    overflow: Overflow
    key: NoiseKey | None
    threads: int
    fresh: bool

    def run(
        self,
        lattice: Lattice,
        scale: Float32 | None = None,
        low: Float32 | None = None,
        high: Float32 | None = None,
        ends: tuple[float, float] | None = None,
        own: ScaledFormat | None = None,
        powers: bool = False,
    ) -> bool:
        """Round with `scale`, or with the scales that `own` takes from the tiles; whether the result is wrong.

        `powers` says that `scale` holds powers of two that are usual: see `write_scales`.
        """
        scaled = scale is not None or own is not None
        if powers or (own is not None and isinstance(own.scale, PowerOfTwoScale)):
            division = Division.POWERS
        else:
            division = Division.REAL if scaled else Division.NONE
        loop, rule = _loop(self.element, self.rounding, self.overflow, division, ends, low is not None)
        stream = _NO_NOISE if self.key is None else stream_of(self.key)
        sizing = _NO_SIZING if own is None else _sizing(own)
        nothing, noisy = _NOTHING, self.rounding is Rounding.STOCHASTIC
        x, out = self.x.reshape(-1), self.out.reshape(-1)
        entry = _entry(x.flags.writeable)

        # Where `out` is `x` the loops could not be vectorised without a run in between.
        streaming = (out.nbytes >= STREAM_BYTES and not self.fresh) or np.may_share_memory(x, out)

        def work(_: int, first: int, last: int) -> bool:
            return bool(
                entry(
                    loop,
                    x,
                    stream,
                    noisy,
                    own is not None,
                    sizing,
                    scaled,
                    nothing if scale is None else scale,
                    nothing if low is None else low,
                    nothing if high is None else high,
                    lattice,
                    first,
                    last,
                    rule,
                    out,
                    streaming,
                )
            )

        return share(work, lattice, self.threads)

    def with_own_scales(self, lattice: Lattice, format: ScaledFormat) -> bool:
        """Round with scales found on the way; False if the result is wrong, as a scaled element could be infinite."""
        return not self.run(lattice, ends=_ends(format, middle_code(format)), own=format)

    def with_own_amax(self, lattice: Lattice, format: ScaledFormat) -> bool:
        """As `with_own_scales`, in two passes, the first of which finds the scales; `x` is what it was if False."""
        amax = _amax(self.x, lattice, self.threads)
        scale = np.empty(amax.shape, np.float32)
        if write_scales(amax, _sizing(format), scale):
            return False
        boxes = any_boxes(lattice.shape, lattice.tile)
        powers = isinstance(format.scale, PowerOfTwoScale)
        self.run(boxes, scale, ends=_ends(format, middle_code(format)), powers=powers)
        return True

    def with_scales(self, lattice: Lattice, format: ScaledFormat, scales: Scales[NDArray[Any]]) -> None:
        """Round with `scales`."""
        boxes = any_boxes(lattice.shape, lattice.tile)
        scale = np.multiply(scales.scale, scales.tensor_scale, dtype=np.float32).reshape(lattice.scale_shape)
        zero_point = int(scales.zero_point.flat[0])
        ends = _ends(format, zero_point)
        with np.errstate(over="ignore"):
            finite = np.isfinite(scale.max() * np.float32(max(abs(end) for end in ends)))
        if finite and bool((scales.zero_point == zero_point).all()):
            one = float(scale.flat[0]) if scale.size == 1 else 0.0
            powers = frexp(one)[0] == 0.5 and _LEAST_POWER <= one <= 1 / _LEAST_POWER
            self.run(boxes, scale, ends=ends, powers=powers)
            return
        low, high = (np.ascontiguousarray(end).reshape(lattice.scale_shape) for end in limits(scales, format))
        self.run(boxes, scale, low, high)


@cache
def _entry(writable: bool) -> Any:
    """`cast_boxes` for arguments as `_Cast.run` gives them, `writable` or not: what numba would find by looking at the
    type of each, which takes several times as long as the call."""
    x = np.zeros(1, np.float32)
    out = x.copy()
    x.flags.writeable = writable
    loop, rule = _loop(INT8, Rounding.NEAREST_EVEN, Overflow.SATURATE, Division.NONE, None, False)
    lattice = whole_tiles((1, 1, 1), (1, 1, 1))
    flag, none = False, _NOTHING
    given = (loop, x, _NO_NOISE, flag, flag, _NO_SIZING, flag, none, none, none, lattice, 0, 1, rule, out, flag)
    cast_boxes(*given)
    return _DISPATCHER.get_overload(tuple(_TYPEOF(one) for one in given))


@lru_cache(1024)
def _loop(
    element: IntFormat | FloatFormat,
    rounding: Rounding,
    overflow: Overflow,
    division: Division,
    ends: tuple[float, float] | None,
    limited: bool,
) -> tuple[Any, Rule]:
    """The loop that rounds, and its numbers; `limited` if tiles have limits of their own."""
    grid, integers = element.grid, isinstance(element, IntFormat)
    low, high = ends or (grid.low, grid.high)
    choice = Loop.ANY if limited else loop_for(grid, rounding, overflow, integers=integers, low=low, high=high)
    rule = rule_of(grid, rounding, overflow, integers=integers, low=low, high=high)
    return rounding_loop(choice, division), rule


@lru_cache(256)
def _ends(format: ScaledFormat, zero_point: int) -> tuple[float, float]:
    element = format.element
    assert isinstance(element, IntFormat | FloatFormat)
    shift = zero_point * 2.0**-element.fraction if isinstance(element, IntFormat) else 0.0
    return element.grid.low - shift, element.grid.high - shift
