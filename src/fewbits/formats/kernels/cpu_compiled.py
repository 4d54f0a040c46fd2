"""How the kernels are compiled: with the GIL released, division as IEEE 754 says, and kept on disk between runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import cfunc, njit

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function`, compiled when it is first called with arguments of new types."""
    return cast(F, njit(nogil=True, cache=True, error_model="numpy")(function))


def compiled_as(signature: Any, function: F) -> F:
    """`function`, compiled now, as an argument for functions that are compiled once whatever they are to call."""
    return cast(F, cfunc(signature, cache=True, error_model="numpy")(function))


@compiled
def bits(value: np.float32) -> np.uint32:
    """The bit pattern of `value`."""
    return np.float32(value).view(np.uint32)


@compiled
def number(pattern: np.uint32) -> np.float32:
    """The float32 whose bit pattern is `pattern`."""
    return np.uint32(pattern).view(np.float32)
