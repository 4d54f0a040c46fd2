"""Casts of numpy arrays: compiled where numba is installed and knows how, otherwise numpy."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.formats.numerics import reference
from fewbits.formats.numerics.scales import Scales, check_scales
from fewbits.formats.qtensor import QTensor
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import Format, ScaledFormat

if find_spec("numba") is not None:
    from fewbits.formats.kernels import cpu

    _COMPILES = True
else:
    _COMPILES = False

Array = NDArray[Any]

_WORTH_COMPILING = 1 << 16  # elements; below, numpy needs less time than loading a kernel does


def given_scales(x: Array, format: ScaledFormat, scale: Array | float, zero_point: Array | int) -> Scales[Array]:
    """A user's scales for `x`, broadcast and checked. Raises DataError."""
    return check_scales(scale, zero_point, format, x.shape)


def fake_quantize(
    x: Array,
    format: Format,
    scales: Scales[Array] | None,
    rounding: Rounding,
    overflow: Overflow,
    key: NoiseKey | None,
    out: Array | None,
    worth_compiling: int = _WORTH_COMPILING,
    threads: int | None = None,
) -> Array:
    """`x` rounded to `format`; from `worth_compiling` elements on by compiled loops, on `threads` threads (as many as
    the process may use). Raises DataError.
    """
    if out is not None:
        _check_out(x, out)
    aligned = out is None or out.flags.aligned
    if _COMPILES and aligned and x.dtype == np.float32 and x.size >= worth_compiling and cpu.handles(format, x.shape):
        source = np.ascontiguousarray(x) if x.flags.aligned else x.copy()
        result = np.empty(x.shape, np.float32) if out is None else out
        cpu.fake_quantize(source, result, format, scales, rounding, overflow, key, threads, fresh=out is None)
        return result
    rounded = reference.fake_quantize(x, format, scales, rounding, overflow, key)
    if out is None:
        return rounded
    out[...] = rounded
    return out


def quantize(
    x: Array,
    format: Format,
    scales: Scales[Array] | None,
    rounding: Rounding,
    overflow: Overflow,
    key: NoiseKey | None,
) -> QTensor[Array]:
    """`x` as codes of `format`. Raises DataError."""
    return reference.quantize(x, format, scales, rounding, overflow, key)


def dequantize(q: QTensor[Array]) -> Array:
    """The values that the codes of `q` stand for."""
    return reference.dequantize(q)


def _check_out(x: Array, out: Array) -> None:
    if out.shape != x.shape or out.dtype != x.dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise DataError(
            f"out is a writable array in C order of shape {x.shape} and type {x.dtype}; it has shape {out.shape} and "
            f"type {out.dtype}"
        )
    if np.may_share_memory(x, out) and x is not out:
        raise DataError("out overlaps x without being x itself: pass x, or memory of its own")
