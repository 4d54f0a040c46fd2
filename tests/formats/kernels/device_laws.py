"""The laws of the Triton kernels as data: every case is cast on a device and by numpy, and the bits are compared.

    TRITON_INTERPRET=1 python device_laws.py        # on the CPU, by Triton's interpreter; failures as JSON

Used by the tests, where the device is the interpreter or CUDA, and by ``benchmarks/formats_gpu.py``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any

import numpy as np
import torch

from fewbits.formats.floating import FLOATS, FloatFormat
from fewbits.formats.granularity import tiles
from fewbits.formats.integer import IntFormat
from fewbits.formats.kernels import triton_tensors
from fewbits.formats.numerics import reference
from fewbits.formats.numerics.scales import Scales, check_scales
from fewbits.formats.qtensor import QTensor
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import Format, NestedScale, ScaledFormat
from fewbits.formats.text import parse

Array = np.ndarray[Any, Any]
EVEN, AWAY, ZERO, FLOOR, STOCHASTIC = Rounding
SATURATE, NONSATURATE = Overflow
KEY = NoiseKey(2**63 + 5, step=2**31 + 1, tensor=2**32 - 1)
BF16_LARGEST = np.float32(torch.finfo(torch.bfloat16).max)

# Kinds of float that the catalogue lacks: no mantissa, unsigned, flushing, beyond float32's normal numbers.
UNUSUAL = ("e5m0f", "e5m0b4f", "ue4m3", "e4m3fnftz", "e4m3b140", "e8m3b140", "e2m0f", "int8f6", "uint4f2")
LAYOUTS = (
    ("mxfp8_e4m3", (7, 64)),
    ("mxfp8_e5m2-ceil", (5, 70)),
    ("mxfp4-rceil", (3, 5, 33)),
    ("mxfp6_e3m2-even", (16, 32)),
    ("mxint8-ceil", (9, 64)),
    ("mxfp4/g32@0", (70, 11)),
    ("nvfp4", (9, 48)),
    ("nvfp4", (5, 37)),
    ("nvfp4/tile16x16", (40, 33)),
    ("int8r/channel", (10, 300)),
    ("int8/channel@1", (6, 7, 5, 5)),
    ("uint8/tensor", (40, 30)),
    ("uint8/tensor/sym", (33, 21)),
    ("int4/g16/asym", (5, 50)),
    ("int8/token/asym", (8, 20)),
    ("int8/tensor/pow2", (33, 21)),
    ("int8f6/tile8x8/pow2-even", (33, 21)),
    ("fp8_e4m3/tensor", (100, 60)),
    ("fp8_e4m3/tensor", (300, 205)),
    ("fp8_e5m2/channel", (6, 333)),
    ("fp8_e4m3/tile200x150", (210, 155)),
    ("bfp8/tile24x24", (50, 100)),
    ("bfp12-rceil/tile24x24", (2, 30, 49)),
    ("fp8_e4m3fnuz/g16", (4, 64)),
    ("bf16/token", (4, 64)),
    ("int8/tensor", (1,)),
    ("fp8_e4m3/tensor", ()),
)


@dataclass(frozen=True)
class Case:
    """One cast. `given`: with scales that are not the tensor's own."""

    group: str
    format: str
    shape: tuple[int, ...]
    rounding: Rounding = EVEN
    overflow: Overflow = SATURATE
    dtype: torch.dtype = torch.float32
    values: str = "patterns"
    given: bool = False


def cases(elements: int, thorough: bool) -> Iterator[Case]:
    """Every format, mode and layout; `thorough`: all of them crossed, otherwise each at least once."""
    modes = [(rounding, overflow) for overflow in Overflow for rounding in Rounding]
    for place, name in enumerate([*FLOATS, *UNUSUAL]):
        chosen = modes if thorough else [modes[place % 5], modes[5 + (place + 2) % 5]]
        for rounding, overflow in chosen:
            if overflow is SATURATE or _has_specials(parse(name)):
                yield Case("casts", name, (elements,), rounding, overflow)
    for name in ("fp8_e4m3", "bf16", "fp8_e5m2", "int8f6") if thorough else ("bf16", "int8f6"):
        for dtype in (torch.float16, torch.bfloat16):
            for rounding in (EVEN, STOCHASTIC) if thorough else (EVEN,):
                yield Case("types", name, (elements,), rounding, dtype=dtype)
    kinds = ("normal", "patterns", "huge", "tiny", "special")
    for place, (name, shape) in enumerate(LAYOUTS):
        for kind in kinds if thorough else (kinds[place % 5],):
            for rounding in Rounding if thorough else (tuple(Rounding)[place * 2 % 5],):
                yield Case("layouts", name, shape, rounding, values=kind)
            yield Case("layouts", name, shape, values=kind, dtype=(torch.float16, torch.bfloat16)[place % 2])
            if thorough and _has_specials(parse(name)):
                yield Case("layouts", name, shape, overflow=NONSATURATE, values=kind)
        if thorough or place % 2:
            yield Case("given scales", name, shape, tuple(Rounding)[place % 5], values=kinds[place % 5], given=True)


def failures(device: str, elements: int, thorough: bool, part: int = 0, parts: int = 1) -> dict[str, list[str]]:
    """What differs from numpy, by group; an entry for every group. Of the cases only every `parts`-th, from `part` on:
    compiling takes most of the time on a GPU, and several processes can share that."""
    found: dict[str, list[str]] = {}
    for place, case in islice(enumerate(cases(elements, thorough)), part, None, parts):
        messages = [f"{case}: {what}" for what in check(case, device, seed=place)]
        found.setdefault(case.group, []).extend(messages)
    return found


def check(case: Case, device: str, seed: int) -> Iterator[str]:
    """What differs from numpy in one case: values, codes, scales, decoded values."""
    format, key = parse(case.format), KEY if case.rounding is STOCHASTIC else None
    x = torch.from_numpy(numbers(case, format, seed)).to(case.dtype).to(device)
    wide = (x.float() if case.dtype == torch.bfloat16 else x).cpu().numpy()
    scales = some_scales(format, case.shape, seed) if case.given else None
    known = None if scales is None else Scales(*(_to(part, device) for part in _parts(scales)))
    way = (case.rounding, case.overflow, key)

    result = torch.empty_like(x)
    triton_tensors.fake_quantize(x, format, known, *way, result)
    expected = reference.fake_quantize(wide, format, scales, *way)
    yield from _difference("values", _as(case.dtype, expected, case.overflow), result)

    codes, found, refused = triton_tensors.quantize(x, format, known, *way)
    if np.isnan(wide).any() and not _element(format).grid.nan:
        if not refused:
            yield "NaN without code was not refused"
        return
    q = reference.quantize(wide, format, scales, *way)
    yield from _difference("codes", torch.from_numpy(q.codes), codes)
    for name, one, other in zip(("scale", "zero_point", "tensor_scale"), _parts(q), _parts(found), strict=True):
        yield from _difference(name, torch.from_numpy(np.array(one)), other)
    if isinstance(format, ScaledFormat) and not case.given:
        own = triton_tensors.scales_of(x, format)
        yield from _difference("scales in two passes", torch.from_numpy(np.array(q.scale)), own.scale)
    as_torch = QTensor(codes, *_parts(found), torch.zeros(0), format, str(case.dtype).removeprefix("torch."))
    if case.dtype != torch.bfloat16:
        decoded = triton_tensors.dequantize(as_torch, case.dtype)
        yield from _difference("decoded", torch.from_numpy(np.array(reference.dequantize(q))), decoded)


def numbers(case: Case, format: Format, seed: int) -> Array:
    """Float32 numbers of one kind."""
    rng = np.random.default_rng(seed)
    count = prod(case.shape)
    match case.values:
        case "normal":
            x = rng.standard_normal(count)
        case "huge":
            x = np.clip(rng.standard_normal(count), -1, 1) * float(np.finfo(np.float32).max)
        case "tiny":
            x = rng.integers(-5000, 5000, count) * 2.0**-149
        case "special":
            x = rng.standard_normal(count)
            for place, value in enumerate((0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan)):
                x[rng.random(count) < 0.1 * (place < 4) + 0.02] = value
        case _:
            # All patterns; and ties and neighbours of ties of the format, at all of its exponents.
            x = rng.integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32).astype(np.float64)
            grid = _element(format).grid
            exponents = rng.integers(max(grid.min_exponent - 3, -149), grid.min_exponent + 8, count)
            half_steps = rng.integers(-40, 41, count) * 2.0 ** (exponents - grid.mantissa_bits - 1)
            x = np.where(rng.random(count) < 0.5, half_steps * rng.choice([1, 1 - 2.0**-23, 1 + 2.0**-23], count), x)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(x, np.float64).astype(np.float32).reshape(case.shape)


def some_scales(format: Format, shape: tuple[int, ...], seed: int) -> Scales[Array]:
    """Scales that go with `format`, with some that make products overflow."""
    assert isinstance(format, ScaledFormat)
    rng = np.random.default_rng(seed)
    wanted = tiles(shape, format.granularity.tile(shape))
    scale = np.exp2(rng.integers(-3, 4, wanted) + np.where(rng.random(wanted) < 0.2, 118, 0))
    if isinstance(format.scale, NestedScale):
        scale = np.minimum(scale, 8)
    element = _element(format)
    zero = rng.integers(element.qmin, element.qmax + 1, wanted) if isinstance(element, IntFormat) else 0
    return check_scales(scale, zero if format.asymmetric else 0, format, shape)


def _as(dtype: torch.dtype, expected: Array, overflow: Overflow) -> torch.Tensor:
    values = torch.from_numpy(np.array(expected))
    if dtype != torch.bfloat16:
        return values
    narrow = values.to(dtype)
    limited = values.clamp(-BF16_LARGEST, BF16_LARGEST).to(dtype)
    return torch.where(torch.isinf(narrow) & torch.isfinite(values) & (overflow is SATURATE), limited, narrow)


def _difference(name: str, expected: torch.Tensor, found: torch.Tensor) -> Iterator[str]:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        yield f"{name}: {expected.dtype}{tuple(expected.shape)} expected, {found.dtype}{tuple(found.shape)} found"
        return
    one, other = expected, found.cpu()
    differs = _patterns(one) != _patterns(other)
    if one.is_floating_point():
        differs &= ~(torch.isnan(one) & torch.isnan(other))
    if count := int(differs.sum()):
        first = int(differs.flatten().nonzero()[0])
        pair = one.flatten()[first].item(), other.flatten()[first].item()
        yield f"{name}: {count} of {one.numel()} differ, the first at {first}: {pair[0]!r} expected, {pair[1]!r} found"


def _patterns(values: torch.Tensor) -> torch.Tensor:
    types = {1: torch.int8, 2: torch.int16, 4: torch.int32}
    return values.contiguous().view(types[values.element_size()])


def _parts(of: Scales[Any] | QTensor[Any]) -> tuple[Any, Any, Any]:
    return of.scale, of.zero_point, of.tensor_scale


def _to(part: Array, device: str) -> torch.Tensor:
    return torch.from_numpy(np.array(part)).to(device)


def _element(format: Format) -> IntFormat | FloatFormat:
    element = format.element if isinstance(format, ScaledFormat) else format
    assert isinstance(element, IntFormat | FloatFormat)
    return element


def _has_specials(format: Format) -> bool:
    grid = _element(format).grid
    return grid.infinity or grid.nan


if __name__ == "__main__":
    # Numpy is the interpreter's arithmetic: it warns where a GPU does not.
    warnings.simplefilter("ignore")
    json.dump(failures("cpu", elements=600, thorough="--thorough" in sys.argv), sys.stdout)
