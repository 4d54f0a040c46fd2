"""Casts of CUDA tensors by Triton kernels: which kernel, in which blocks, for which format and tiles.

Triton imports on a machine without GPU too, and its interpreter runs the same kernels on CPU tensors where
``TRITON_INTERPRET=1`` is set before it is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import numpy as np
import torch

from fewbits.formats.floating import BF16, FP16, FloatFormat
from fewbits.formats.granularity import Shape, Tensor, tiles
from fewbits.formats.integer import IntFormat
from fewbits.formats.kernels import triton_kernels as kernels
from fewbits.formats.kernels.triton_spec import CodeSpec, RoundingSpec, ScaleSpec, nested_rounding
from fewbits.formats.numerics.layout import fold
from fewbits.formats.numerics.scales import Scales, middle_code, scales_of_range
from fewbits.formats.qtensor import QTensor, code_type
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import REAL, Format, PowerOfTwoScale, ScaledFormat, element_of

TYPES = (torch.float32, torch.bfloat16, torch.float16)
_BLOCK = 4096  # elements of one program
_LARGEST_TILE = 1 << 14  # elements that one program can hold and round in one pass
_REPEAT = 8
_FLOAT8_CAPABILITY = (8, 9)
_REMEMBERED = 256
_CODE_TYPES = (torch.int8, torch.int16, torch.uint8, torch.uint16, torch.uint32)
_CODES = {str(dtype).removeprefix("torch."): dtype for dtype in _CODE_TYPES}


@dataclass(frozen=True, slots=True)
class _Planes:
    """A tensor as ``[planes, rows, columns]`` under its tiles."""

    planes: int
    rows: int
    columns: int
    ta: int
    tb: int
    tc: int

    @classmethod
    def of(cls, shape: Shape, tile: Shape) -> _Planes:
        (planes, rows, columns), (ta, tb, tc) = fold(shape, tile)
        if ta == tb == 1 and columns % tc == 0:
            # Whole tiles, one after the other: where a row ends does not matter.
            return cls(1, 1, planes * rows * columns, 1, 1, tc)
        return cls(planes, rows, columns, ta, tb, tc)

    @property
    def tile_rows(self) -> int:
        return -(-self.rows // self.tb)

    @property
    def tile_columns(self) -> int:
        return -(-self.columns // self.tc)

    @property
    def numbers(self) -> tuple[int, ...]:
        return (self.planes, self.rows, self.columns, self.ta, self.tb, self.tc, self.tile_rows, self.tile_columns)

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of one program that takes any tiles."""
        across = min(_BLOCK, _power_of_two(self.columns))
        return min(_BLOCK // across, _power_of_two(self.planes * self.rows)), across


@dataclass(frozen=True, slots=True)
class _Cast:
    """One cast: the format, how is rounded, and what is written."""

    format: Format
    rounding: Rounding
    overflow: Overflow
    key: NoiseKey | None
    codes: bool

    @property
    def element(self) -> IntFormat | FloatFormat:
        element = element_of(self.format)
        assert isinstance(element, IntFormat | FloatFormat)
        return element

    @property
    def offset(self) -> int:
        """The zero point, if all tiles have the same."""
        return middle_code(self.format) if isinstance(self.format, ScaledFormat) else 0

    @property
    def rounds(self) -> RoundingSpec:
        return _rounds(self.format, self.rounding, self.overflow, self.offset)

    @property
    def words(self) -> tuple[int, int, int, int]:
        """Key, tensor and step of the noise, as signed numbers of 32 bits."""
        if self.key is None:
            return 0, 0, 0, 0
        halves = self.key.seed & 0xFFFFFFFF, self.key.seed >> 32, self.key.tensor, self.key.step
        key_low, key_high, tensor, step = (half - (1 << 32) if half >= 1 << 31 else half for half in halves)
        return key_low, key_high, tensor, step


@lru_cache(_REMEMBERED)
def _rounds(format: Format, rounding: Rounding, overflow: Overflow, offset: int) -> RoundingSpec:
    element = element_of(format)
    assert isinstance(element, IntFormat | FloatFormat)
    grid = element.grid
    if isinstance(element, FloatFormat) or not isinstance(format, ScaledFormat):
        return RoundingSpec.of(grid, rounding, overflow)
    # What a zero point shifts may be up to twice as large, and is no multiple of a larger step there.
    grid = replace(grid, mantissa_bits=grid.mantissa_bits + 1, min_exponent=grid.min_exponent + 1)
    return RoundingSpec.of(grid, rounding, overflow, offset * 2.0**-element.fraction)


# Working these out takes longer than launching a kernel.
_scale_spec = lru_cache(_REMEMBERED)(ScaleSpec.of)
_nested_rounding = lru_cache(_REMEMBERED)(nested_rounding)
_code_spec = lru_cache(_REMEMBERED)(CodeSpec.of)


def can_cast(dtype: torch.dtype, format: Format, shape: Shape) -> bool:
    """Whether there is a kernel: not for float64, for formats that are a list of levels, or tiles of more axes."""
    element = element_of(format)
    if dtype not in TYPES or not isinstance(element, IntFormat | FloatFormat) or 0 in shape:
        return False
    return not isinstance(format, ScaledFormat) or len(fold(shape, format.granularity.tile(shape))[0]) == 3


def fake_quantize(
    x: torch.Tensor,
    format: Format,
    scales: Scales[torch.Tensor] | None,
    rounding: Rounding,
    overflow: Overflow,
    key: NoiseKey | None,
    out: torch.Tensor,
) -> None:
    """Write `x`, contiguous, rounded to `format`, to `out`, contiguous and of the same type. See `can_cast`."""
    _cast(x, _Cast(format, rounding, overflow, key, codes=False), scales, out)


def quantize(
    x: torch.Tensor,
    format: Format,
    scales: Scales[torch.Tensor] | None,
    rounding: Rounding,
    overflow: Overflow,
    key: NoiseKey | None,
) -> tuple[torch.Tensor, Scales[torch.Tensor], bool]:
    """Codes of `x`, contiguous, with their scales; and whether NaN was met that has no code. See `can_cast`."""
    cast = _Cast(format, rounding, overflow, key, codes=True)
    codes = torch.empty(x.shape, dtype=_CODES[code_type(cast.element)], device=x.device)
    found, refused = _cast(x, cast, scales, codes)
    return codes, found, not cast.element.grid.nan and bool(refused.item())


def dequantize(q: QTensor[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """The values of `q` as `dtype`. See `can_cast`."""
    cast = _Cast(q.format, Rounding.NEAREST_EVEN, Overflow.SATURATE, None, codes=False)
    out = torch.empty(q.shape, dtype=dtype, device=q.codes.device)
    planes = _Planes.of(q.shape, q.tile)
    scale = (q.scale * q.tensor_scale).contiguous()
    known = _Tiles(scale, scale, scale, q.zero_point.contiguous())
    _launch_planes(q.codes.contiguous(), out, cast, planes, known, out, mode=2)
    return out


@dataclass(frozen=True, slots=True)
class _Tiles:
    """What an element is divided by, the limits of the quotient, and zero points; one of each for every tile."""

    product: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    zero_point: torch.Tensor


def _cast(
    x: torch.Tensor, cast: _Cast, scales: Scales[torch.Tensor] | None, out: torch.Tensor
) -> tuple[Scales[torch.Tensor], torch.Tensor]:
    """Fill `out`; the scales that were used, and a number that is 1 if NaN without code was met."""
    refused = torch.zeros((), dtype=torch.int32, device=x.device)
    shape = tuple(x.shape)
    if not isinstance(cast.format, ScaledFormat):
        if scales is None:
            planes = _Planes(1, 1, x.numel(), 1, 1, x.numel())
            _launch_planes(x, out, cast, planes, None, refused, mode=int(cast.codes))
            return _no_scales(x.device), refused
        cast = replace(cast, format=ScaledFormat(cast.element, Tensor()))
    assert isinstance(cast.format, ScaledFormat)
    tile = cast.format.granularity.tile(shape)
    planes = _Planes.of(shape, tile)
    if scales is None and not cast.format.asymmetric and _fits(planes):
        return _launch_tiles(x, out, cast, planes, tiles(shape, tile), refused), refused
    if scales is None:
        scales = scales_of(x, cast.format)
    _launch_planes(x, out, cast, planes, _limits(scales, cast), refused, mode=int(cast.codes))
    return scales, refused


def scales_of(x: torch.Tensor, format: ScaledFormat) -> Scales[torch.Tensor]:
    """The scales that `format` takes from `x`, contiguous. See `can_cast`.

    Those of asymmetric formats are worked out on the host, from the range of every tile.
    """
    shape = tuple(x.shape)
    tile = format.granularity.tile(shape)
    planes, wanted = _Planes.of(shape, tile), tiles(shape, tile)
    if format.asymmetric:
        above, below = _magnitudes(x, planes, wanted, both=True)
        found = scales_of_range(-below.cpu().numpy(), above.cpu().numpy(), format)
        scale = torch.from_numpy(np.array(found.scale)).to(x.device)
        zero_point = torch.from_numpy(np.array(found.zero_point)).to(x.device)
        return Scales(scale, zero_point, torch.ones((), device=x.device))
    spec = _scale_spec(format)
    tensor_scale = _tensor_scale(x, spec) if spec.nested else torch.ones((), device=x.device)
    amax, _ = _magnitudes(x, planes, wanted, both=False)
    scale = torch.empty_like(amax)
    count, block = prod(wanted), 256
    kernels.finish_scales[(-(-count // block),)](
        amax.view(torch.int32),
        tensor_scale,
        scale,
        count,
        spec,
        _nested_rounding(format),
        block,
        enable_fp_fusion=False,
    )
    zero_point = torch.full(wanted, middle_code(format), dtype=torch.int32, device=x.device)
    return Scales(scale, zero_point, tensor_scale)


def _fits(planes: _Planes) -> bool:
    return planes.ta == 1 and _power_of_two(planes.tb) * _power_of_two(planes.tc) <= _LARGEST_TILE


def _launch_tiles(
    x: torch.Tensor, out: torch.Tensor, cast: _Cast, planes: _Planes, wanted: Shape, refused: torch.Tensor
) -> Scales[torch.Tensor]:
    assert isinstance(cast.format, ScaledFormat)
    spec = _scale_spec(cast.format)
    tensor_scale = _tensor_scale(x, spec) if spec.nested else torch.ones((), device=x.device)
    scale = torch.empty(wanted if cast.codes else (), dtype=torch.float32, device=x.device)
    held_rows, held_columns = _power_of_two(planes.tb), _power_of_two(planes.tc)
    room = max(_BLOCK // (held_rows * held_columns), 1)
    across = min(room, _power_of_two(planes.tile_columns))
    down = min(room // across, _power_of_two(planes.tile_rows))
    programs = planes.planes * -(-planes.tile_columns // across) * -(-planes.tile_rows // down)
    whole = planes.rows == 1 and planes.tc == held_columns and across * planes.tc % 64 == 0
    half, half_code = _half(x.dtype, cast, own_scales=True)
    kernels.cast_tiles[(programs,)](
        x,
        out,
        scale,
        tensor_scale,
        refused,
        planes.rows,
        planes.columns,
        planes.tile_rows,
        planes.tile_columns,
        *cast.words,
        S=cast.rounds,
        C=_code_spec(cast.element),
        K=spec,
        NESTED=_nested_rounding(cast.format),
        HALF=half,
        HALF_CODE=half_code,
        OFFSET=cast.offset,
        CODES=cast.codes,
        FLAT=whole,
        TB=planes.tb,
        TC=planes.tc,
        NB=down,
        NC=across,
        PB=held_rows,
        PC=held_columns,
        NATIVE=x.is_cuda,
        HARDWARE=_in_hardware(x, cast),
        num_warps=_warps(down * across * held_rows * held_columns),
        enable_fp_fusion=False,
    )
    zero_point = torch.full(tuple(scale.shape), cast.offset, dtype=torch.int32, device=x.device)
    return Scales(scale, zero_point, tensor_scale)


def _launch_planes(
    x: torch.Tensor,
    out: torch.Tensor,
    cast: _Cast,
    planes: _Planes,
    known: _Tiles | None,
    refused: torch.Tensor,
    mode: int,
) -> None:
    if known is None:
        known = _Tiles(refused, refused, refused, refused)
        scaled = False
    else:
        scaled = isinstance(cast.format, ScaledFormat)
    down, across = planes.block
    programs = -(-planes.planes * planes.rows // down) * -(-planes.columns // across)
    half, half_code = _half(out.dtype if mode != 1 else x.dtype, cast, own_scales=False)
    one_tile_per_row = planes.tc >= planes.columns
    # With a scale for every element, Triton 3.6 converts 16 of 256 columns wrongly (seen on an H200).
    in_hardware = mode == 1 and _in_hardware(x, cast) and (one_tile_per_row or not scaled)
    kernels.cast_planes[(programs,)](
        x,
        out,
        known.product,
        known.low,
        known.high,
        known.zero_point,
        refused,
        *planes.numbers,
        *cast.words,
        S=cast.rounds,
        C=_code_spec(cast.element),
        HALF=half,
        HALF_CODE=half_code,
        SCALED=scaled,
        ASYMMETRIC=scaled and isinstance(cast.element, IntFormat),
        OFFSET=cast.offset,
        CODES=mode,
        ONE_TILE_PER_ROW=one_tile_per_row,
        ALIGNED=down == 1 and across % 64 == 0 and (planes.planes * planes.rows == 1 or planes.columns % 64 == 0),
        BR=down,
        BC=across,
        NATIVE=x.is_cuda,
        HARDWARE=in_hardware,
        num_warps=_warps(down * across),
        enable_fp_fusion=False,
    )


def _magnitudes(x: torch.Tensor, planes: _Planes, wanted: Shape, both: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest finite magnitude of every tile, or those of its positive and its negative numbers; float32."""
    above = torch.zeros(wanted, dtype=torch.int32, device=x.device)
    below = torch.zeros(wanted, dtype=torch.int32, device=x.device) if both else above
    if planes.tc >= planes.columns:
        along, (down, across) = 1, planes.block
    elif planes.tb >= planes.rows and planes.ta >= planes.planes:
        across = min(64, _power_of_two(planes.columns))
        along, down = 0, min(_BLOCK // across, _power_of_two(planes.planes * planes.rows))
    else:
        along, (down, across) = -1, planes.block
    repeat = min(_REPEAT, _power_of_two(-(-planes.columns // across))) if along == 1 else 1
    programs = -(-planes.planes * planes.rows // down) * -(-planes.columns // (across * repeat))
    kernels.magnitudes[(programs,)](
        x,
        above,
        below,
        *planes.numbers,
        BOTH=both,
        ALONG=along,
        BR=down,
        BC=across,
        REPEAT=repeat,
        NATIVE=x.is_cuda,
        num_warps=_warps(down * across),
        enable_fp_fusion=False,
    )
    return above.view(torch.float32), below.view(torch.float32)


def _tensor_scale(x: torch.Tensor, spec: ScaleSpec) -> torch.Tensor:
    """NVFP4: the scale that takes the tensor's largest magnitude to the largest product of block scale and element."""
    amax, _ = _magnitudes(x, _Planes(1, 1, x.numel(), 1, 1, x.numel()), (), both=False)
    scale = torch.clamp(amax / torch.tensor(spec.tensor_top, device=x.device), max=torch.finfo(torch.float32).max)
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)


def _limits(scales: Scales[torch.Tensor], cast: _Cast) -> _Tiles:
    scale, zero_point = scales.scale.contiguous(), scales.zero_point.contiguous()
    product, low, high = (torch.empty_like(scale) for _ in range(3))
    count, block = scale.numel(), 256
    element = cast.element
    unit = 2.0**-element.fraction if isinstance(element, IntFormat) else 0.0
    spec = _rounds(element, Rounding.TOWARD_ZERO, Overflow.SATURATE, 0)
    kernels.limits[(-(-count // block),)](
        scale,
        scales.tensor_scale,
        zero_point,
        product,
        low,
        high,
        count,
        unit,
        spec,
        block,
        enable_fp_fusion=False,
    )
    return _Tiles(product, low, high, zero_point)


def _half(dtype: torch.dtype, cast: _Cast, own_scales: bool) -> tuple[RoundingSpec, CodeSpec]:
    """The type that a result is rounded to at the end; without limits where no result lies beyond them."""
    format = FP16 if dtype == torch.float16 else BF16
    element, overflow = cast.element, cast.overflow
    if isinstance(cast.format, ScaledFormat):
        power = isinstance(cast.format.scale, PowerOfTwoScale)
        # A float32 of few bits is a bfloat16. With real scales, the largest magnitude is a value of the type.
        is_exact = format is BF16 and power and isinstance(element, FloatFormat) and element.mantissa_bits <= 7
        is_float = isinstance(element, FloatFormat) and element.max <= format.max
        is_within = cast.format.scale == REAL and own_scales and is_float
        within = is_exact or is_within
    else:
        within = max(-element.grid.low, element.grid.high) <= format.max
    if within:
        overflow = Overflow.NONSATURATE
    return _rounds(format, Rounding.NEAREST_EVEN, overflow, 0), _code_spec(format)


def _in_hardware(x: torch.Tensor, cast: _Cast) -> bool:
    plain = cast.rounding is Rounding.NEAREST_EVEN and cast.overflow is Overflow.SATURATE
    return (
        x.is_cuda
        and cast.codes
        and plain
        and _code_spec(cast.element).in_hardware
        and torch.cuda.get_device_capability(x.device) >= _FLOAT8_CAPABILITY
    )


def _no_scales(device: torch.device) -> Scales[torch.Tensor]:
    one = torch.ones((), device=device)
    return Scales(one, torch.zeros((), dtype=torch.int32, device=device), one)


def _warps(elements: int) -> int:
    return min(max(elements // 512, 1), 16)


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
