"""The door to what casts arrays: numpy with or without numba, torch on CPU and CUDA."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from fewbits.errors import DataError, TargetError
from fewbits.formats.kernels.protocol import Backend


def backend_for(x: object) -> Backend[Any]:
    """What casts arrays of the type of `x`.

    Raises:
        DataError: `x` is neither a numpy array nor a torch tensor.
    """
    if isinstance(x, np.ndarray):
        from fewbits.formats.kernels import numpy_arrays

        return numpy_arrays
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        from fewbits.formats.kernels import torch_tensors

        return torch_tensors
    raise DataError(
        f"what is cast is a numpy array or a torch tensor, not {type(x).__name__}; for example "
        "numpy.asarray(x, numpy.float32)"
    )


def cuda_kernels() -> ModuleType:
    """What casts CUDA tensors, `fewbits.formats.kernels.triton_tensors`; imported when the first one is met.

    Raises:
        TargetError: Triton is not installed.
    """
    if find_spec("triton") is None:
        raise TargetError(
            "CUDA tensors are cast by Triton, which is not installed: pip install triton, or cast x.cpu()"
        )
    from fewbits.formats.kernels import triton_tensors

    return triton_tensors
