"""What the compiler does not find by itself: stores past the caches, and the largest of a few numbers side by side.

A store to a line that no cache holds makes the processor read the line first, which for large arrays costs as much
as writing it. Non-temporal stores of whole lines do without. All is
said in LLVM's own terms, so that it becomes what the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from fewbits.formats.kernels.cpu_compiled import compiled

Float32 = NDArray[np.float32]

STREAM_BYTES = 1 << 23
"""Smaller results are left in the caches, where who asked for them will find them."""

_LINE = 64  # bytes
_BUILD: Any = cgutils  # neither it nor what is made of intrinsics has types that say how they are called
_NUMBERS = _LINE // 4


def _emitted(function: Callable[..., Any]) -> Any:
    """`function`, which emits code, as one that compiled functions can call."""
    return intrinsic(function)


@_emitted
def _stream_line(typing_context: Any, source: Any, target: Any) -> Any:
    """Copy the 64 bytes at the address `source` to the address `target`, which 64 divides, past the caches."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(ir.IntType(32), _NUMBERS)
        origin, goal = (builder.inttoptr(address, line.as_pointer()) for address in arguments)
        store = builder.store(builder.load(origin, align=4), goal, align=_LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit


@_emitted
def fill_16(typing_context: Any, target: Any, value: Any) -> Any:
    """Write the float32 `value` sixteen times, from the address `target` on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        several = ir.VectorType(ir.FloatType(), 16)
        values: Any = ir.Constant(several, ir.Undefined)
        for place in range(16):
            values = builder.insert_element(values, arguments[1], ir.IntType(32)(place))
        builder.store(values, builder.inttoptr(arguments[0], several.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.float32), emit


@_emitted
def prefetch(typing_context: Any, address: Any) -> Any:
    """Begin to load the line at `address`, which need not be memory of ours, into the caches."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = _BUILD.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [builder.inttoptr(arguments[0], pointer), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.intp), emit


@_emitted
def copy_bytes(typing_context: Any, source: Any, target: Any, count: Any) -> Any:
    """Copy `count` bytes from the address `source` to the address `target`; they do not overlap."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        origin, goal = (builder.inttoptr(address, ir.IntType(8).as_pointer()) for address in arguments[:2])
        _BUILD.raw_memcpy(builder, goal, origin, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), emit


@_emitted
def stream_fence(typing_context: Any) -> Any:
    """Wait until all that was streamed is in memory, where other threads see it."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


def _largest_magnitude(size: int) -> Any:
    """The largest of the `size` uint32 at an address, each without its top bit."""

    @_emitted
    def largest(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word = ir.IntType(32)
            several = ir.VectorType(word, size)
            patterns = builder.load(builder.inttoptr(arguments[0], several.as_pointer()), align=4)
            magnitudes = builder.and_(patterns, ir.Constant(several, [0x7FFFFFFF] * size))
            kind, name = ir.FunctionType(word, [several]), f"llvm.vector.reduce.umax.v{size}i32"
            return builder.call(_BUILD.get_or_insert_function(builder.module, kind, name), [magnitudes])

        return types.uint32(types.intp), emit

    return largest


largest_of_32, largest_of_16 = _largest_magnitude(32), _largest_magnitude(16)


@compiled
def stream(run: Float32, count: int, out: Float32, start: int) -> int:
    """Move `count` numbers at the front of `run` to ``out[start:]`` in whole lines; how many are left for later.

    What is left is moved to the front of `run`.
    """
    source, target = run.ctypes.data, out.ctypes.data + start * 4
    first = min(-target % _LINE, count * 4)
    lines = (count * 4 - first) // _LINE
    copy_bytes(source, target, first)
    source, target = source + first, target + first
    for line in range(lines):
        _stream_line(source + line * _LINE, target + line * _LINE)
    done = first // 4 + lines * _NUMBERS
    for i in range(count - done):
        run[i] = run[done + i]
    return count - done
