"""What int8 convolutions lose in oneDNN as PyTorch calls it, beside how fewbits calls it (docs/torch-layers.md).

Two traps: a zero point that is not 0 (the weights are summed up at every call; fewbits puts its part into the bias),
and convolutions of single pixels (kernels for AMX that are slow for some shapes; fewbits multiplies matrices). Both
sides are one oneDNN call each, in rotating blocks in one process: the factors looked for are 3 and more.

    python benchmarks/onednn_traps.py    # -> results/onednn_traps.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from pydantic import TypeAdapter

from fewbits.targets.probe import this_machine
from results import FOLDER, Taken, write

RESULT = FOLDER / "onednn_traps.json"
THREADS, ROUNDS, CALLS = 2, 20, 10
ZERO_POINTS = ((64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7))
PIXELS = ((64, 384, 14), (96, 576, 14), (32, 192, 28), (128, 960, 7), (160, 960, 7), (192, 960, 7), (320, 1280, 7))


@dataclass(frozen=True)
class Row:
    """One convolution of `inputs` channels to `outputs` on `size` x `size` pixels: median seconds of both ways, and
    those of every block."""

    trap: str
    inputs: int
    outputs: int
    size: int
    trapped: float
    avoided: float
    blocks: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Stored:
    """All rows."""

    taken: Taken
    threads: int
    rows: tuple[Row, ...]


def main() -> None:
    """Measure, print, store."""
    torch.set_num_threads(THREADS)
    with torch.inference_mode():
        found = [_row("zero point", 3, *shape) for shape in ZERO_POINTS] + [_row("pixels", 1, *one) for one in PIXELS]
    for row in found:
        print(
            f"{row.trap:10} {row.inputs:4} -> {row.outputs:4}, {row.size:2} x {row.size:2}: "
            f"{row.trapped * 1e6:7.0f} us, avoided {row.avoided * 1e6:5.0f} us, {row.trapped / row.avoided:.1f}x"
        )
    taken = Taken.now(this_machine(("fewbits", "torch")))
    write(TypeAdapter(Stored).dump_json(Stored(taken, THREADS, tuple(found)), indent=1), RESULT)


def _row(trap: str, kernel: int, inputs: int, outputs: int, size: int) -> Row:
    weight = torch.randint(-127, 128, (outputs, inputs, kernel, kernel), dtype=torch.int8)
    x = torch.randint(0, 256, (1, inputs, size, size), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    scale, zeros, bias = torch.rand(outputs), torch.zeros(outputs, dtype=torch.int32), torch.rand(outputs)
    how = ([1, 1], [kernel // 2] * 2, [1, 1], 1)
    packed = torch.ops.onednn.qconv_prepack.default(weight, torch.ones(outputs), 1.0, 0, *how, None)

    def convolve(zero: int) -> torch.Tensor:
        made: torch.Tensor = torch.ops.onednn.qconv_pointwise.default(
            x, 0.1, zero, packed, scale, zeros, bias, *how, 0.5, 0, torch.uint8, "relu", [], ""
        )
        return made

    matrix = torch.ops.onednn.qlinear_prepack.default(weight.flatten(1), None) if kernel == 1 else None
    rows = x.permute(0, 2, 3, 1).reshape(-1, inputs)

    def multiply() -> torch.Tensor:
        made: torch.Tensor = torch.ops.onednn.qlinear_pointwise.default(
            rows, 0.1, 0, matrix, scale, zeros, bias, 0.5, 0, torch.uint8, "relu", [], ""
        )
        return made

    trapped, avoided = (lambda: convolve(3), lambda: convolve(0)) if kernel > 1 else (lambda: convolve(0), multiply)
    blocks = [(_seconds(trapped), _seconds(avoided)) for _ in range(ROUNDS)]
    both = [median(one) for one in zip(*blocks, strict=True)]
    return Row(trap, inputs, outputs, size, both[0], both[1], tuple(blocks))


def _seconds(call: Callable[[], torch.Tensor]) -> float:
    """The median of a block's calls, without its first two."""
    times = []
    for _ in range(CALLS + 2):
        before = perf_counter()
        call()
        times.append(perf_counter() - before)
    return median(times[2:])


if __name__ == "__main__":
    main()
