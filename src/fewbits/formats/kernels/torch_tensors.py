"""Casts of torch tensors: on the CPU the memory of the tensor goes to the kernels for numpy, on CUDA to Triton's.

Rounding has no gradient; `fewbits.formats.kernels.autograd` has the form that lets gradients through.
"""

from __future__ import annotations

from ctypes import c_char
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewbits.errors import DataError
from fewbits.formats.granularity import Tensor, tiles
from fewbits.formats.kernels import cuda_kernels, numpy_arrays
from fewbits.formats.numerics import scales as scales_of_arrays
from fewbits.formats.numerics.scales import Scales, check_scales
from fewbits.formats.qtensor import QTensor
from fewbits.formats.rounding import NoiseKey, Overflow, Rounding
from fewbits.formats.scaled import Format, ScaledFormat

Array = NDArray[Any]

_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMPY_TYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float16: np.dtype(np.float16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
_WORTH_COMPILING = 1 << 12  # elements; tensors are cast over and over in training, so that loading a kernel pays soon
_NO_TABLE = torch.zeros(0)


def given_scales(
    x: torch.Tensor, format: ScaledFormat, scale: torch.Tensor | float, zero_point: torch.Tensor | int
) -> Scales[torch.Tensor]:
    """A user's scales for `x`, broadcast and checked, on the device of `x`. Raises DataError."""
    found = check_scales(_number(scale), _number(zero_point), format, tuple(x.shape))
    return _to_torch(found, x.device)


def scales_of(x: torch.Tensor, format: ScaledFormat) -> Scales[torch.Tensor]:
    """The scales that `format` takes from `x`, those of `fewbits.formats.numerics.scales`. Raises DataError."""
    x = _plain(x)
    if _has_kernel(x, format):
        with torch.cuda.device(x.device):
            found: Scales[torch.Tensor] = cuda_kernels().scales_of(x.contiguous(), format)
        return found
    return _to_torch(scales_of_arrays.scales_of(_array(x), format), x.device)


def fake_quantize(
    x: torch.Tensor,
    format: Format,
    scales: Scales[torch.Tensor] | None,
    rounding: Rounding,
    overflow: Overflow,
    key: NoiseKey | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """`x` rounded to `format`, of x's shape, type and device; NaN stays NaN.

    Raises DataError for another type of tensor, scales that do not fit, or a tensor whose gradient would be lost;
    TargetError for a CUDA tensor without Triton.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise DataError(
            "x requires gradients, and rounding has none: fewbits.fake_quantize_ste lets them through; otherwise pass "
            "x.detach(), or call under torch.no_grad()"
        )
    source = _plain(x)
    if out is not None:
        _check_out(source, out)
    format = _with_scales(source, format, scales)
    if _has_kernel(source, format):
        target = torch.empty(source.shape, dtype=source.dtype, device=source.device) if out is None else _plain(out)
        with torch.cuda.device(source.device):
            cuda_kernels().fake_quantize(source.contiguous(), format, scales, rounding, overflow, key, target)
        return target if out is None else out
    array, known = _array(source), None if scales is None else _to_numpy(scales)
    if out is not None and source.device.type == "cpu" and source.dtype != torch.bfloat16:
        same = out.data_ptr() == source.data_ptr() and source.is_contiguous()
        target_array = array if same else out.detach().numpy()
        numpy_arrays.fake_quantize(
            array, format, known, rounding, overflow, key, target_array, _WORTH_COMPILING, torch.get_num_threads()
        )
        return out
    # What was widened is a copy already: it takes its own result.
    own = array if source.dtype == torch.bfloat16 else None
    result = numpy_arrays.fake_quantize(
        array, format, known, rounding, overflow, key, own, _WORTH_COMPILING, torch.get_num_threads()
    )
    values = _narrowed(_tensor(result), source.dtype, overflow).to(source.device)
    if out is None:
        return values
    with torch.no_grad():
        return out.copy_(values)


def quantize(
    x: torch.Tensor,
    format: Format,
    scales: Scales[torch.Tensor] | None,
    rounding: Rounding,
    overflow: Overflow,
    key: NoiseKey | None,
) -> QTensor[torch.Tensor]:
    """`x` as codes of `format`, on the device of `x`.

    Raises DataError for NaN without code, another type of tensor or scales that do not fit, TargetError for a CUDA
    tensor without Triton.
    """
    source = _plain(x)
    format = _with_scales(source, format, scales)
    dtype = str(source.dtype).removeprefix("torch.")
    if _has_kernel(source, format):
        with torch.cuda.device(source.device):
            codes, found, refused = cuda_kernels().quantize(
                source.contiguous(), format, scales, rounding, overflow, key
            )
        if not refused:
            table = _NO_TABLE.to(source.device)
            return QTensor(codes, found.scale, found.zero_point, found.tensor_scale, table, format, dtype)
        # Numpy says how many there are, and where.
    known = None if scales is None else _to_numpy(scales)
    q = numpy_arrays.quantize(_array(source), format, known, rounding, overflow, key)
    device = source.device
    return QTensor(
        _tensor(q.codes).to(device),
        _tensor(q.scale).to(device),
        _tensor(q.zero_point).to(device),
        _tensor(q.tensor_scale).to(device),
        _tensor(q.table).to(device),
        q.format,
        dtype,
    )


def dequantize(q: QTensor[torch.Tensor]) -> torch.Tensor:
    """The values that the codes of `q` stand for, of the type that was quantised, on the device of the codes."""
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in _TYPES}
    if q.dtype not in dtypes:
        raise DataError(f"{q.dtype!r} is no type of the tensors that are cast; those are {', '.join(dtypes)}")
    dtype, device = dtypes[q.dtype], q.codes.device
    if device.type == "cuda" and cuda_kernels().can_cast(dtype, q.format, q.shape):
        with torch.cuda.device(device):
            values: torch.Tensor = cuda_kernels().dequantize(q, dtype)
        return values
    as_numpy = QTensor(
        q.codes.cpu().numpy(),
        q.scale.cpu().numpy(),
        q.zero_point.cpu().numpy(),
        q.tensor_scale.cpu().numpy(),
        q.table.cpu().numpy(),
        q.format,
        "float32" if dtype == torch.bfloat16 else q.dtype,
    )
    return _narrowed(_tensor(numpy_arrays.dequantize(as_numpy)), dtype, Overflow.SATURATE).to(device)


def _plain(x: torch.Tensor) -> torch.Tensor:
    """`x` without its history. Raises DataError if it is not a strided tensor of real numbers on CPU or CUDA."""
    if x.dtype not in _TYPES:
        names = ", ".join(str(dtype) for dtype in _TYPES)
        raise DataError(f"tensors that are cast are of {names}, not {x.dtype}; convert with x.float()")
    if x.layout != torch.strided or x.device.type not in ("cpu", "cuda"):
        raise DataError(
            f"tensors that are cast are dense and on cpu or cuda, not {x.layout} on {x.device.type}; x.to_dense().cpu()"
        )
    return x.detach().resolve_neg()


def _has_kernel(x: torch.Tensor, format: Format) -> bool:
    return x.is_cuda and bool(cuda_kernels().can_cast(x.dtype, format, tuple(x.shape)))


def _with_scales(x: torch.Tensor, format: Format, scales: Scales[torch.Tensor] | None) -> Format:
    """`format`, with one scale for the tensor if it has none and one is given. Raises DataError."""
    if scales is None:
        return format
    scaled = format if isinstance(format, ScaledFormat) else ScaledFormat(format, Tensor())
    shape = tuple(x.shape)
    wanted = tiles(shape, scaled.granularity.tile(shape))
    if tuple(scales.scale.shape) != wanted or tuple(scales.zero_point.shape) != wanted:
        raise DataError(f"scales for a tensor of shape {shape} have shape {wanted}, not {tuple(scales.scale.shape)}")
    if any(part.device != x.device for part in (scales.scale, scales.zero_point, scales.tensor_scale)):
        raise DataError(f"the scales of a tensor on {x.device} are on {x.device} too, not on {scales.scale.device}")
    return scaled


def _check_out(x: torch.Tensor, out: torch.Tensor) -> None:
    if out.shape != x.shape or out.dtype != x.dtype or out.device != x.device or not out.is_contiguous():
        raise DataError(
            f"out is a contiguous tensor of shape {tuple(x.shape)}, {x.dtype} on {x.device}; it has shape "
            f"{tuple(out.shape)}, {out.dtype} on {out.device}"
        )
    shares = out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() and out.numel() > 0
    if shares and not (out.data_ptr() == x.data_ptr() and x.is_contiguous()):
        raise DataError("out overlaps x without being x itself: pass x, or memory of its own")


def _array(x: torch.Tensor) -> Array:
    """The memory of `x`, which must outlive it; bfloat16, which numpy does not have, widened to float32."""
    if x.device.type == "cpu" and x.is_contiguous() and x.numel() and x.dtype in _NUMPY_TYPES:
        # Tensor.numpy would forbid for good that the storage is resized, as FSDP does with parameters.
        memory = (c_char * (x.numel() * x.element_size())).from_address(x.data_ptr())
        shared: Array = np.frombuffer(memoryview(memory), _NUMPY_TYPES[x.dtype]).reshape(x.shape)
        return shared
    # Where memory must be laid out anew torch does it, on its threads.
    array: Array = (x.float() if x.dtype == torch.bfloat16 else x).cpu().contiguous().numpy()
    return array


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _narrowed(values: torch.Tensor, dtype: torch.dtype, overflow: Overflow) -> torch.Tensor:
    """`values` as `dtype`; finite ones beyond bfloat16's range become its limits if overflow saturates."""
    if dtype != torch.bfloat16:
        return values
    narrow = values.to(dtype)
    if overflow is Overflow.SATURATE:
        overflowed = torch.isinf(narrow) & torch.isfinite(values)
        if overflowed.any():
            largest = torch.finfo(dtype).max
            narrow = torch.where(overflowed, values.clamp(-largest, largest).to(dtype), narrow)
    return narrow


def _number(value: torch.Tensor | float) -> Array:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray((value.float() if value.dtype == torch.bfloat16 else value).numpy())
    return np.asarray(value)


def _to_torch(found: Scales[Array], device: torch.device) -> Scales[torch.Tensor]:
    parts = (_tensor(np.asarray(part)).to(device) for part in (found.scale, found.zero_point, found.tensor_scale))
    return Scales(*parts)


def _to_numpy(given: Scales[torch.Tensor]) -> Scales[Array]:
    parts = (part.detach().cpu().numpy() for part in (given.scale, given.zero_point, given.tensor_scale))
    return Scales(*parts)
