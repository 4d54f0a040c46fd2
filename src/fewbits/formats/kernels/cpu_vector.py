"""What the compiler does not find by itself: stores past the caches, and work on sixteen numbers and more at a time.

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
from fewbits.formats.numerics.philox import MULTIPLIERS, ROUNDS, WEYL

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
        values = _everywhere(builder, several, arguments[1])
        builder.store(values, builder.inttoptr(arguments[0], several.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.float32), emit


def _everywhere(builder: Any, kind: Any, value: Any) -> Any:
    """`value` in all places of a vector of type `kind`."""
    values: Any = ir.Constant(kind, ir.Undefined)
    for place in range(kind.count):
        values = builder.insert_element(values, value, ir.IntType(32)(place))
    return values


@_emitted
def philox_block(
    typing_context: Any, target: Any, low: Any, high: Any, tensor: Any, step: Any, first: Any, second: Any
) -> Any:
    """Write the 64 words of the sixteen counters from ``low + 2**32 * high`` on, four by sixteen, from `target` on.

    `low` is a multiple of sixteen, `first` and `second` are the key; all are of 32 bits, in uint64.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, words = ir.VectorType(ir.IntType(64), 16), ir.VectorType(ir.IntType(32), 16)

        def constant(value: int) -> Any:
            return ir.Constant(wide, [value] * 16)

        address, low, high, tensor, step, first, second = arguments
        a, b, c, d, key, other = (_everywhere(builder, wide, each) for each in (low, high, tensor, step, first, second))
        a, half, mask = builder.add(a, ir.Constant(wide, list(range(16)))), constant(32), constant(0xFFFFFFFF)
        # Words live in the low halves of 64-bit lanes. What products leave in the high halves is masked where it
        # matters, which costs nothing: the vector multiplication reads low halves only.
        for _ in range(ROUNDS):
            of_a = builder.mul(builder.and_(a, mask), constant(MULTIPLIERS[0]))
            of_c = builder.mul(builder.and_(c, mask), constant(MULTIPLIERS[1]))
            a, b = builder.xor(builder.xor(builder.lshr(of_c, half), b), key), of_c
            c, d = builder.xor(builder.xor(builder.lshr(of_a, half), d), other), of_a
            key, other = builder.add(key, constant(WEYL[0])), builder.add(other, constant(WEYL[1]))
        for place, result in enumerate((a, b, c, d)):
            goal = builder.add(address, ir.IntType(64)(place * _LINE))
            builder.store(builder.trunc(result, words), builder.inttoptr(goal, words.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, *[types.uint64] * 6), emit


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
