"""Single layers of ViT-B and GPT-2 in every way that fewbits computes them in PyTorch: laws, then speed.

Each row is one way on one layer: seconds per call in eager mode and compiled, by the wall clock (launches included)
and, on CUDA, by the device (events, L2 cache overwritten before every call); relative error against fp32; bytes that
the module stores, and that a call allocates at its peak. First each way is held to what its scheme says. A row that
fails has the error's text in place of figures. No file but `--out` is written.

    python benchmarks/torch_layers.py --device cuda --out layers.json       # at most about 150 s
    python benchmarks/torch_layers.py --device cpu --small                  # tries the script, in seconds
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional

from fewbits.formats.scheme import Scheme
from fewbits.models.torch_ops.executed import Kernel, executed
from fewbits.models.torch_ops.module import LowPrecision
from fewbits.models.torch_ops.operation import Call, Convolution, Sort
from fewbits.models.torch_ops.writing import write

T = TypeVar("T")

FLUSH = 1 << 28  # bytes: more than the L2 cache of any GPU
FP32 = "fp32"

LINEAR_WAYS = {
    "cuda": (
        FP32,
        "tf32",
        "bf16",
        "fp16",
        "w:int8r/channel a:int8r/token dynamic",
        "w:int8r/channel a:int8r/tensor",
        "w:fp8_e4m3/tensor a:fp8_e4m3/tensor",
        "w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic",
        "w:fp8_e4m3/channel a:fp8_e4m3/token dynamic",
        "w:int8r/channel",
        "w:uint4/g128@0",
        "w:int4r/g32@0",
        "w:int8r/channel a:uint8/token dynamic",
    ),
    "cpu": (
        FP32,
        "bf16",
        "fp16",
        "w:int8r/channel a:uint8/tensor",
        "w:int8r/channel a:int8r/tensor",
        "w:int8r/channel a:uint8/tensor dynamic",
        "w:int8r/channel a:int8r/token dynamic",
        "w:int8r/channel",
        "w:uint4/g128@0",
        "w:int4r/g32@0",
    ),
}
OTHER_WAYS = {"cuda": (FP32, "tf32", "bf16", "fp16"), "cpu": (FP32, "bf16", "fp16")}
CONV_WAYS = {
    "cuda": OTHER_WAYS["cuda"],
    "cpu": (*OTHER_WAYS["cpu"], "w:int8r/channel a:uint8/tensor", "w:int8r/channel a:uint8/tensor dynamic"),
}
TABLE_WAYS = (FP32, "bf16", "w:int8r/channel", "w:int4r/channel")
HEAD_WAYS = {
    "cuda": (FP32, "bf16", "w:int8r/channel a:int8r/token dynamic", "w:int8r/channel", "w:uint4/g128@0"),
    "cpu": (FP32, "bf16", "w:int8r/channel a:uint8/tensor", "w:int8r/channel", "w:uint4/g128@0"),
}
DETAIL = 2.0**-7
"""Largest error, over the largest result, of what is summed or scaled in bf16."""


@dataclass(frozen=True)
class Layer:
    """One call of a network: `shape` of its weight, `inputs` of its activations."""

    model: str
    name: str
    sort: Sort
    shape: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    batch: int
    convolution: Convolution | None = None
    compiled: int = 9
    """When it is compiled: lower numbers first."""


@dataclass(frozen=True)
class Timing:
    """Median seconds of `calls` calls."""

    wall: float
    device: float | None
    calls: int


@dataclass
class Row:
    """One way on one layer."""

    layer: Layer
    way: str
    computes: str = ""
    input_type: str = ""
    error: float | None = None
    eager: Timing | None = None
    compiled: Timing | None = None
    compile_seconds: float | None = None
    compiled_differs: float | None = None
    stored_bytes: int | None = None
    peak_bytes: int | None = None
    kernels: list[Kernel] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Law:
    """What one way was held to, and whether it held; `text` has the figures or the error."""

    way: str
    case: str
    holds: bool
    text: str


def main() -> None:
    """Laws, eager rows, compiled rows, and the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="tiny layers")
    parser.add_argument("--seconds", type=float, default=140.0, help="when to stop beginning something new")
    parser.add_argument("--only", default="", help="ways whose text holds this")
    parser.add_argument("--skip-laws", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device: run with --device cpu --small to try the script")
    report = Report(options.device, start, options.seconds, options.out)
    torch.manual_seed(0)
    # What is compared with is float32 whatever the defaults are: cuDNN's is tf32.
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "ieee"
    with torch.no_grad():
        if not options.skip_laws:
            for law in laws(options.device):
                report.laws.append(law)
                if not law.holds:
                    print("FAILED", law.way, law.case, law.text, flush=True)
            print(f"{report.spent():5.1f} s: {len(report.laws)} laws, {report.broken} broken", flush=True)
            report.write()
        pairs = [
            (layer, way)
            for layer in (small_layers() if options.small else layers())
            for way in ways(layer, options.device)
            if options.only in way
        ]
        modules = eager(report, pairs)
        print(f"{report.spent():5.1f} s: eager rows done", flush=True)
        report.write()
        compiled(report, modules)
    report.write()
    print(f"{report.spent():5.1f} s: {len(report.rows)} rows, {len(report.left)} left out for want of time")
    if report.broken:
        sys.exit(1)


class Report:
    """What is found, and how much time is left."""

    def __init__(self, device: str, start: float, seconds: float, out: Path | None) -> None:
        self.device, self.start, self.seconds, self.out = device, start, seconds, out
        self.laws: list[Law] = []
        self.rows: list[Row] = []
        self.left: list[str] = []

    @property
    def broken(self) -> int:
        """Laws that do not hold."""
        return sum(not law.holds for law in self.laws)

    def spent(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def late(self, what: str) -> bool:
        """Whether there is no time left for `what`, which is then noted."""
        if self.spent() < self.seconds:
            return False
        self.left.append(what)
        return True

    def write(self) -> None:
        """The file, as far as it is."""
        if self.out is None:
            return
        taken = {
            "command": f"python benchmarks/torch_layers.py {' '.join(sys.argv[1:])}",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "device": torch.cuda.get_device_name() if self.device == "cuda" else platform.processor(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "cuda": torch.version.cuda,
            "seconds": self.spent(),
        }
        content = {
            "taken": taken,
            "laws": [asdict(law) for law in self.laws],
            "rows": [asdict(row) for row in self.rows],
            "left": self.left,
        }
        self.out.write_text(json.dumps(content, indent=1, default=str) + "\n")


def layers() -> list[Layer]:
    """Products of one block of ViT-B (197 tokens) and GPT-2 (256 tokens; one token: decoding), batch 1 and 32."""
    found = []
    for model, tokens in (("vit-b", 197), ("gpt2", 256), ("gpt2 decoding", 1)):
        for batch in (1, 32):
            first = 0 if (model, batch) in {("vit-b", 1), ("vit-b", 32), ("gpt2 decoding", 1)} else 3
            for name, shape, order in (
                ("fc1", (3072, 768), first),
                ("fc2", (768, 3072), first + 1),
                ("qkv", (2304, 768), first + 2),
                ("proj", (768, 768), 8),
            ):
                inputs = ((batch, tokens, shape[1]),)
                found.append(Layer(model, name, Sort.LINEAR, shape, inputs, batch, compiled=order))
            if tokens > 1:
                heads = ((batch, 12, tokens, 64), (batch, 12, 64, tokens))
                found.append(Layer(model, "scores", Sort.MATMUL, (), heads, batch, compiled=7))
        found.append(Layer(model, "table", Sort.EMBEDDING, (50257, 768), ((1, tokens),), 1)) if tokens == 256 else None
    found.append(Layer("gpt2 decoding", "head", Sort.LINEAR, (50257, 768), ((1, 1, 768),), 1, compiled=6))
    patches = Convolution.of((16, 16), stride=16)
    found += [
        Layer("vit-b", "patches", Sort.CONVOLUTION, (768, 3, 16, 16), ((batch, 3, 224, 224),), batch, patches, 8)
        for batch in (1, 32)
    ]
    return found


def small_layers() -> list[Layer]:
    """One of each sort, tiny."""
    return [
        Layer("small", "fc1", Sort.LINEAR, (96, 128), ((2, 5, 128),), 2, compiled=0),
        Layer("small", "scores", Sort.MATMUL, (), ((2, 2, 5, 8), (2, 2, 8, 5)), 2, compiled=1),
        Layer("small", "table", Sort.EMBEDDING, (50, 32), ((1, 5),), 1),
        Layer("small", "conv", Sort.CONVOLUTION, (16, 8, 3, 3), ((2, 8, 9, 9),), 2, Convolution.of((3, 3), padding=1)),
    ]


def ways(layer: Layer, device: str) -> Sequence[str]:
    """Schemes to try on `layer`, as text."""
    if layer.name == "head":
        return HEAD_WAYS[device]
    by_sort = {
        Sort.LINEAR: LINEAR_WAYS[device],
        Sort.CONVOLUTION: CONV_WAYS[device],
        Sort.MATMUL: OTHER_WAYS[device],
        Sort.EMBEDDING: TABLE_WAYS,
    }
    return by_sort[layer.sort]


class Float(torch.nn.Module):
    """What a layer is compared with: itself in float32."""

    def __init__(self, layer: Layer, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """The call."""
        if self.layer.sort is Sort.MATMUL:
            return torch.matmul(x, second)
        if self.layer.sort is Sort.EMBEDDING:
            return functional.embedding(x, self.weight)
        conv = self.layer.convolution
        if conv is not None:
            return functional.conv2d(x, self.weight, self.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return functional.linear(x, self.weight, self.bias)


class Made:
    """Modules and operands, made once for layers whose weights have one shape."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._weights: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}
        self._modules: dict[tuple[object, ...], torch.nn.Module] = {}

    def weight(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of `shape`."""
        if shape not in self._weights:
            depth = int(np.prod(shape[1:]))
            self._weights[shape] = torch.randn(shape) / depth**0.5, torch.randn(shape[0]) / 10
        return self._weights[shape]

    def module(self, layer: Layer, way: str) -> torch.nn.Module:
        """`layer` in the scheme `way`."""
        key = (layer.sort, layer.shape, layer.convolution, way)
        if key not in self._modules:
            weight, bias = self.weight(layer.shape) if layer.shape else (None, None)
            bias = None if layer.sort in (Sort.EMBEDDING, Sort.MATMUL) else bias
            if way == FP32:
                made: torch.nn.Module = Float(layer, weight, bias).to(self.device)
            else:
                scheme, type = Scheme.parse(way), working(way, self.device)
                call = Call(layer.sort, scheme, layer.shape, self.device, layer.convolution, type)
                made = write(call, weight, bias, [(-4.0, 4.0)] * 2)
            self._modules[key] = made
        return self._modules[key]

    def inputs(self, layer: Layer, way: str) -> tuple[torch.Tensor, ...]:
        """Operands of `layer`, in the type that the way works in."""
        torch.manual_seed(1)
        if layer.sort is Sort.EMBEDDING:
            return tuple(torch.randint(0, layer.shape[0], shape, device=self.device) for shape in layer.inputs)
        drawn = [torch.randn(shape, device=self.device).clamp_(-4, 4) for shape in layer.inputs]
        return tuple(one.to(working(way, self.device)) for one in drawn)


def working(way: str, device: str) -> torch.dtype:
    """The type of activations around a layer: on CUDA networks run in bf16, on the CPU in float32."""
    if way in (FP32, "tf32"):
        return torch.float32
    if way == "fp16":
        return torch.float16
    return torch.bfloat16 if device == "cuda" or way == "bf16" else torch.float32


def eager(report: Report, pairs: Sequence[tuple[Layer, str]]) -> list[tuple[Row, torch.nn.Module, Made]]:
    """A row for each of `pairs`, timed in eager mode; those that can be compiled."""
    made, found, profiled = Made(report.device), [], set()
    reference: dict[Layer, torch.Tensor] = {}
    for layer, way in pairs:
        row = Row(layer, way)
        if report.late(f"{layer.model} {layer.name} batch {layer.batch} {way}"):
            continue
        report.rows.append(row)
        module = attempt(row, "make", lambda layer=layer, way=way: made.module(layer, way))
        if module is None:
            continue
        inputs = made.inputs(layer, way)
        row.input_type = str(inputs[0].dtype)
        row.computes = module.computes if isinstance(module, LowPrecision) else "fp32"
        row.stored_bytes = sum(one.nbytes for one in module.buffers())
        if layer not in reference:
            reference[layer] = made.module(layer, FP32)(*made.inputs(layer, FP32)).float()
        result = attempt(row, "eager", lambda module=module, inputs=inputs: module(*inputs))
        if result is None:
            if report.device == "cuda":
                alive(report)
            continue
        row.error = relative(result, reference[layer])
        row.eager = attempt(row, "eager", lambda m=module, i=inputs: timed(lambda: m(*i), report.device))
        row.peak_bytes = attempt(row, "peak", lambda m=module, i=inputs: peak(lambda: m(*i), report.device))
        if (layer.sort, way) not in profiled:
            profiled.add((layer.sort, way))
            row.kernels = attempt(row, "kernels", lambda m=module, i=inputs: list(executed(lambda: m(*i)))) or []
        found.append((row, module, made))
    return found


def compiled(report: Report, modules: Sequence[tuple[Row, torch.nn.Module, Made]]) -> None:
    """Times of the rows compiled, the telling layers first."""
    for row, module, made in sorted(modules, key=lambda one: one[0].layer.compiled):
        if report.late(f"compiled: {row.layer.model} {row.layer.name} batch {row.layer.batch} {row.way}"):
            continue
        inputs = made.inputs(row.layer, row.way)
        torch._dynamo.reset()
        fast = torch.compile(module, fullgraph=True, dynamic=False)
        start = time.perf_counter()
        result = attempt(row, "compile", lambda fast=fast, inputs=inputs: fast(*inputs))
        if result is None:
            continue
        row.compile_seconds = time.perf_counter() - start
        row.compiled_differs = relative(result, module(*inputs).float())
        row.compiled = attempt(row, "compiled", lambda f=fast, i=inputs: timed(lambda: f(*i), report.device))


def attempt(row: Row, what: str, action: Callable[[], T]) -> T | None:
    """What `action` gives; None, and its error in the row, if it fails."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001  a kernel or a compiler may raise anything, and all of it is reported
        text = "".join(traceback.format_exception_only(error)).strip()
        row.failures.append(f"{what}: {text[:600]}")
        print("FAILED", row.layer.model, row.layer.name, row.way, what, text[:300], flush=True)
        return None


def alive(report: Report) -> None:
    """End here if the device does not work any more: after some errors every call fails."""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        report.left.append(f"the device failed: {error}")
        report.write()
        sys.exit(f"the device failed: {error}; run again without that way (--only)")


def timed(call: Callable[[], object], device: str) -> Timing:
    """Median of some calls, by the wall clock and by the device."""
    for _ in range(3):
        call()
    if device == "cpu":
        seconds, until = [], time.perf_counter() + 0.2
        while len(seconds) < 5 or (time.perf_counter() < until and len(seconds) < 200):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return Timing(median(seconds), None, len(seconds))
    torch.cuda.synchronize()
    blocks, calls = [], 10
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        blocks.append((time.perf_counter() - start) / calls)
    flush = torch.empty(FLUSH, dtype=torch.int8, device=device)
    events = []
    for _ in range(20):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        events.append((begin, end))
    torch.cuda.synchronize()
    return Timing(median(blocks), median(begin.elapsed_time(end) for begin, end in events) / 1e3, 5 * calls)


def peak(call: Callable[[], object], device: str) -> int | None:
    """Bytes that one call allocates at its peak, its result included; not known on the CPU."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """``‖found - wanted‖ / ‖wanted‖``."""
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def laws(device: str) -> Iterator[Law]:
    """Each way against its emulation on the CPU, which is exact, over shapes of every kind; and what else must hold."""
    for sort, all_ways in (
        (Sort.LINEAR, LINEAR_WAYS[device]),
        (Sort.MATMUL, OTHER_WAYS[device]),
        (Sort.CONVOLUTION, CONV_WAYS[device]),
        (Sort.EMBEDDING, TABLE_WAYS),
    ):
        for way in all_ways:
            if way != FP32:
                for case, inputs, shape, conv in cases(sort):
                    yield law(sort, way, device, case, inputs, shape, conv)
    if device == "cuda":
        yield tf32_law()


def cases(
    sort: Sort,
) -> Iterator[tuple[str, tuple[torch.Tensor, ...], tuple[int, ...], Convolution | None]]:
    """Operands of every kind: ranks, empty, not contiguous, odd sizes."""
    torch.manual_seed(2)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape).clamp_(-4, 4)

    if sort is Sort.LINEAR:
        for depth, columns in ((64, 48), (70, 45), (256, 128), (1, 1)):
            for name, x in (
                ("rank 1", drawn(depth)),
                ("rank 2", drawn(33, depth)),
                ("rank 3", drawn(2, 3, depth)),
                ("rank 4", drawn(2, 3, 4, depth)),
                ("empty", drawn(0, depth)),
                ("not contiguous", drawn(depth, 20).t()),
            ):
                yield f"{name}, depth {depth}, columns {columns}", (x,), (columns, depth), None
    elif sort is Sort.MATMUL:
        yield "rank 2", (drawn(5, 7), drawn(7, 9)), (), None
        yield "rank 4", (drawn(2, 3, 17, 8), drawn(2, 3, 17, 8).transpose(2, 3)), (), None
    elif sort is Sort.EMBEDDING:
        yield "rank 2, odd width", (torch.randint(0, 11, (3, 4)),), (11, 7), None
    else:
        for name, shape, x, conv in (
            ("2 axes", (16, 8, 3, 3), drawn(2, 8, 9, 9), Convolution.of((3, 3), 2, 1)),
            ("1 axis, dilated", (5, 6, 3), drawn(2, 6, 15), Convolution.of((3,), 1, 2, 2)),
            ("3 axes", (4, 3, 2, 2, 2), drawn(1, 3, 5, 5, 5), Convolution.of((2, 2, 2))),
            ("depthwise", (7, 1, 3, 3), drawn(2, 7, 9, 9), Convolution.of((3, 3), 1, 1, 1, 7)),
        ):
            yield name, (x,), shape, conv


def law(
    sort: Sort,
    way: str,
    device: str,
    case: str,
    inputs: tuple[torch.Tensor, ...],
    shape: tuple[int, ...],
    conv: Convolution | None,
) -> Law:
    """Whether `way` gives what its emulation gives, its copy and its stored state the same."""
    try:
        scheme = Scheme.parse(way)
        weight = torch.randn(shape) / max(float(np.prod(shape[1:])), 1.0) ** 0.5 if shape else None
        bias = torch.randn(shape[0]) / 10 if sort in (Sort.LINEAR, Sort.CONVOLUTION) else None
        result = torch.float32
        made = write(Call(sort, scheme, shape, device, conv, result), weight, bias, [(-4.0, 4.0)] * 2)
        emulated = write(Call(sort, scheme, shape, "cpu", conv), weight, bias, [(-4.0, 4.0)] * 2, emulate=True)
        moved = tuple(one.to(device) for one in inputs)
        found, wanted = made(*moved).cpu().double(), emulated(*inputs).double()
        again = copy.deepcopy(made)
        again.load_state_dict(made.state_dict())
        same = torch.equal(again(*moved).cpu().double(), found)
        largest = float(wanted.abs().max()) if wanted.numel() else 0.0
        away = float((found - wanted).abs().max()) if wanted.numel() else 0.0
        limit = tolerance(way, device) * max(largest, 1e-6)
        right = found.shape == wanted.shape and away <= limit and same
        text = f"largest difference {away:.3g}, allowed {limit:.3g}, copies {'agree' if same else 'differ'}"
        return Law(way, f"{sort} {case}", right, text)
    except Exception as error:  # noqa: BLE001  a kernel may raise anything, and all of it is reported
        return Law(way, f"{sort} {case}", False, "".join(traceback.format_exception_only(error)).strip()[:600])


def tolerance(way: str, device: str) -> float:
    """Largest difference from exact sums, over the largest result."""
    if way in ("bf16", "fp16"):
        return 2.0**-7 if way == "bf16" else 2.0**-10
    if way == "tf32":
        return 2.0**-8  # the tensor core cuts what the emulation rounds
    if "fp8" in way:
        return DETAIL if device == "cuda" else 1e-5  # sums of 14 bits on Hopper; row-wise results are bf16
    if "int4" in way and device == "cuda" and "channel" not in way:
        return 2 * DETAIL  # activations, scales and zero points are bf16
    return 1e-5


def tf32_law() -> Law:
    """A product beside ours stays in float32, and the switch is as it was."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    x, weight = torch.randn(64, 512, device="cuda"), torch.randn(96, 512)
    exact = x.double() @ weight.cuda().double().t()
    ours = write(Call(Sort.LINEAR, Scheme.parse("tf32"), (96, 512), "cuda"), weight)(x)
    other = functional.linear(x, weight.cuda())
    errors = relative(ours, exact), relative(other, exact)
    right = errors[0] > 1e-5 and errors[1] < 1e-6 and matmul.fp32_precision == before
    return Law("tf32", "others keep float32", right, f"errors {errors[0]:.3g} (ours), {errors[1]:.3g} (others)")


if __name__ == "__main__":
    main()
