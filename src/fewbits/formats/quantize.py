"""The three verbs of number formats, on numpy arrays and torch tensors alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from fewbits.errors import FormatError
from fewbits.formats.checks import check_cast
from fewbits.formats.granularity import Tensor
from fewbits.formats.kernels import backend_for
from fewbits.formats.kernels.protocol import Backend
from fewbits.formats.levels import BinaryFormat, TernaryFormat
from fewbits.formats.qtensor import A, QTensor
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import Format, ScaledFormat
from fewbits.formats.text import parse

E = TypeVar("E", bound=StrEnum)


def quantize(
    x: A,
    format: Format | str,
    *,
    scale: A | float | None = None,
    zero_point: A | int = 0,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    overflow: Overflow | str = Overflow.SATURATE,
    key: NoiseKey | None = None,
) -> QTensor[A]:
    """Codes of `x` in `format`, with their scales.

    Args:
        x: numpy array or torch tensor of any shape and memory layout; float16, bfloat16, float32 or float64.
            float64 is rounded once, directly.
        format: a value, or its text: ``bf16``, ``fp8_e4m3`` (a plain cast), ``int8r/channel``, ``mxfp4``.
        scale: one for each tile, ``ceil(shape / tile)`` along every axis (or what broadcasts to it); ``None``
            takes the array's own scales. A number with a format without granularity is the scale of all of `x`.
        zero_point: integers beside `scale`, for an asymmetric format.
        rounding: ``nearest_even``, ``nearest_away``, ``toward_zero``, ``floor`` or ``stochastic``.
        overflow: ``saturate``, or ``nonsaturate``: Inf, or NaN for a format without Inf.
        key: names the random numbers; needed for stochastic rounding, and for nothing else.

    Raises:
        FormatError: the format is unknown, impossible, or does not go with the other arguments or the shape.
        DataError: `x` is no array of real numbers, holds NaN where the format has no code for it, or `scale`
            does not fit.
    """
    how = _cast(format, scale is not None, rounding, overflow, key)
    backend: Backend[A] = backend_for(x)
    scales = None if scale is None else backend.given_scales(x, how.scaled, scale, zero_point)
    return backend.quantize(x, how.format, scales, how.rounding, how.overflow, how.key)


def fake_quantize(
    x: A,
    format: Format | str,
    *,
    scale: A | float | None = None,
    zero_point: A | int = 0,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    overflow: Overflow | str = Overflow.SATURATE,
    key: NoiseKey | None = None,
    out: A | None = None,
) -> A:
    """The value that each element of `x` has after `quantize` and `dequantize`; x's shape and type of number.

    Arguments and errors as in `quantize`, except that NaN stays NaN. `out` takes the result, in C order and of
    the type of `x`; it may be `x` itself. With numba, large float32 arrays need little more memory
    than the result; nested scales, power-of-two scales in place, other types of number and all arrays without numba
    need temporary arrays besides.
    """
    how = _cast(format, scale is not None, rounding, overflow, key)
    backend: Backend[A] = backend_for(x)
    scales = None if scale is None else backend.given_scales(x, how.scaled, scale, zero_point)
    return backend.fake_quantize(x, how.format, scales, how.rounding, how.overflow, how.key, out)


def dequantize(q: QTensor[A]) -> A:
    """The values that the codes of `q` stand for; shape of the codes, type of the array that was quantised."""
    backend: Backend[A] = backend_for(q.codes)
    return backend.dequantize(q)


@dataclass(frozen=True, slots=True)
class _Cast:
    """Arguments that go together."""

    format: Format
    rounding: Rounding
    overflow: Overflow
    key: NoiseKey | None

    @property
    def scaled(self) -> ScaledFormat:
        assert isinstance(self.format, ScaledFormat)
        return self.format


def _cast(
    format: Format | str, with_scale: bool, rounding: Rounding | str, overflow: Overflow | str, key: NoiseKey | None
) -> _Cast:
    known = parse(format) if isinstance(format, str) else format
    if with_scale and not isinstance(known, ScaledFormat):
        known = ScaledFormat(known, Tensor())
    how, beyond = _choice(Rounding, rounding), _choice(Overflow, overflow)
    _check(known, with_scale, how, beyond, key is not None)
    return _Cast(known, how, beyond, key)


# A training casts in the same few ways all the time.
@lru_cache(1024)
def _check(known: Format, with_scale: bool, rounding: Rounding, overflow: Overflow, keyed: bool) -> None:
    check_cast(known, rounding, overflow, keyed=keyed, with_scales=with_scale)
    if keyed and rounding is not Rounding.STOCHASTIC:
        raise FormatError("stochastic rounding needs a key, other roundings take none: leave key out")
    if isinstance(known, BinaryFormat | TernaryFormat):
        raise FormatError(f"{known} needs a scale: write {known}/tensor or {known}/channel")


def _choice(kind: type[E], text: E | str) -> E:
    if isinstance(text, kind):
        return text
    choices = [str(choice) for choice in kind]
    if text not in choices:
        raise FormatError(f"{text!r} is no {kind.__name__.lower()}; choose {', '.join(choices)}")
    return kind(text)
