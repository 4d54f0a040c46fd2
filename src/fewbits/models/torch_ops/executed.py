"""Which kernels really ran: read from PyTorch's profiler, and for the CPU from oneDNN's own words."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import fx
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from fewbits.errors import WorkerError

_WARM: Final = 2
_MICRO: Final = 1e-6
_MILLI: Final = 1e-3
_CHILD_SECONDS: Final = 300

_WIDTHS: Final = (
    ("fp8", ("c10::Float8_e4m3fn", "c10::Float8_e5m2")),
    ("int8", ("signed char", "unsigned char")),
    ("bf16", ("c10::BFloat16",)),
    ("fp16", ("c10::Half",)),
    ("fp32", ("float",)),
    ("fp64", ("double",)),
)
"""Precision → the profiler's names of the types, narrow ones first."""
_KERNEL_NAMES: Final = (
    ("int4", re.compile(r"int4|tinygemm")),
    ("fp8", re.compile(r"e4m3|e5m2|f8f8|fp8")),
    ("int8", re.compile(r"i8i8|s8s8|imma|int8|s8_|_i8")),
    ("tf32", re.compile(r"tf32|s1688gemm(?!_(?:f16|bf16))")),
    ("bf16", re.compile(r"bf16|bfloat16")),
    ("fp16", re.compile(r"f16|half|hmma|h1688|h16816|hgemm")),
    ("fp32", re.compile(r"sgemm|f32|float")),
)
"""Precision → what the names of CUDA kernels that multiply so have in them, the telling ones first."""
_BOOKKEEPING: Final = re.compile(
    r"aten::(empty|empty_strided|empty_like|resize_|as_strided|view|reshape|_reshape_alias|unsqueeze|squeeze|expand|t|"
    r"transpose|slice|select|narrow|item|_local_scalar_dense|detach|alias|result_type|contiguous|to|_to_copy|new_empty|"
    r"_unsafe_view|resolve_conj|resolve_neg)\Z"
)
_WRAPPERS: Final = re.compile(r"aten::(linear|matmul|pad|conv[123]d|convolution|_convolution|where|embedding)\Z")
"""What calls others to compute."""
_NAMED: Final[Mapping[str, str]] = {"int4": "int4", "quantized_": "int8"}
"""Part of the name of an operator that takes packed weights → what it multiplies, which the types do not say."""
_VERBOSE: Final = re.compile(r"onednn_verbose,v1,primitive,exec,cpu,(.*)")
CALL: Final = "fewbits_call,"
"""What stands, with a call's number behind, before the lines of a log that belong to that call."""
_OPERAND: Final = re.compile(r"(?:src|wei)(?:_[a-z]+)?:([a-z0-9_]+)")
_ONEDNN_TYPES: Final = {
    "f8_e4m3": "fp8",
    "f8_e5m2": "fp8",
    "u8": "int8",
    "s8": "int8",
    "bf16": "bf16",
    "f16": "fp16",
    "f32": "fp32",
    "f64": "fp64",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of one call. `operator` is PyTorch's, `kernel` what computed it, `precision` that of what it read:
    the narrowest of its operands' types; ``""`` where nothing says."""

    operator: str
    kernel: str
    precision: str
    seconds: float


def executed(call: Callable[[], object]) -> tuple[Kernel, ...]:
    """Every kernel of one `call`, in order of time; those of the GPU if it launches any, otherwise operators.

    `call` is run three times: what compiles or packs at first has done so before it is looked at. Operators that move
    nothing (views, allocations) are left out; seconds are their own, without those that they call.
    """
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    for _ in range(_WARM):
        call()
    with profile(activities=activities, record_shapes=True) as found:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    results = found.profiler.kineto_results if found.profiler is not None else None
    types = {} if results is None else {one.correlation_id(): tuple(one.dtypes()) for one in results.events()}
    events = sorted(found.events() or (), key=lambda one: one.time_range.start)
    on_host = [one for one in events if one.device_type == DeviceType.CPU]
    launched = tuple(kernel for one in on_host for kernel in _launched(one, types))
    return launched or tuple(_operators(on_host, types))


def onednn_executed(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[Kernel, ...]:
    """Every oneDNN primitive of one call of `module`, by oneDNN's own log, in a process of its own: a process has one
    log. Operator and kernel are oneDNN's words. `module` must be one that `torch.save` writes. Raises WorkerError."""
    return parse_verbose(_log(module, inputs, torch.get_num_threads()))


def onednn_by_call(
    module: fx.GraphModule, inputs: Sequence[torch.Tensor], threads: int
) -> Mapping[int, tuple[Kernel, ...]]:
    """The same for every call of a graph (a function or a module), by its number among them; calls without a primitive
    are left out. `module` runs call by call, with `threads` threads. Raises WorkerError."""
    found: dict[int, tuple[Kernel, ...]] = {}
    for part in _log(module, inputs, threads).split(CALL)[1:]:
        number, _, log = part.partition("\n")
        kernels = parse_verbose(log)
        if kernels:
            found[int(number)] = kernels
    return found


def operators_by_call(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Mapping[int, tuple[Kernel, ...]]:
    """PyTorch's operators for every call of a graph, by its number among them, read from the profiler while it runs
    call by call. Calls that compute nothing are left out."""
    runs = _Naming(module)
    runs.run(*inputs)
    runs.number = 0
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        runs.run(*inputs)
    results = found.profiler.kineto_results if found.profiler is not None else None
    types = {} if results is None else {one.correlation_id(): tuple(one.dtypes()) for one in results.events()}
    parts: dict[int, list[FunctionEvent]] = {}
    for event in found.events() or ():
        number = _number(event)
        if number >= 0:
            parts.setdefault(number, []).append(event)
    ran = {number: tuple(_operators(events, types)) for number, events in parts.items()}
    return {number: kernels for number, kernels in ran.items() if kernels}


class _Naming(fx.Interpreter):
    """Runs a graph call by call, each under a name in the profile."""

    number = 0

    def run_node(self, n: fx.Node) -> object:
        """Run one call."""
        if n.op not in ("call_function", "call_module"):
            return super().run_node(n)
        with record_function(f"{CALL}{self.number}"):
            self.number += 1
            return super().run_node(n)


def _number(event: FunctionEvent) -> int:
    """The number of the call that `event` is inside of; -1 if it is in none."""
    around = event.cpu_parent
    while around is not None:
        if around.name.startswith(CALL):
            return int(around.name.removeprefix(CALL))
        around = around.cpu_parent
    return -1


def _log(module: torch.nn.Module, inputs: Sequence[torch.Tensor], threads: int) -> str:
    """oneDNN's log of one call of `module`; of a graph with a line before each of its calls."""
    with tempfile.TemporaryDirectory(prefix="fewbits-") as folder:
        path = Path(folder) / "call.pt"
        torch.save((module, tuple(inputs), threads), path)
        command = [sys.executable, "-m", "fewbits.models.torch_ops.verbose_child", str(path)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_CHILD_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise WorkerError(f"the process that reads oneDNN's log did not end in {_CHILD_SECONDS} s") from error
    if ran.returncode:
        raise WorkerError(f"the process that reads oneDNN's log failed: {ran.stderr.strip()[-1000:]}")
    return ran.stdout


def parse_verbose(text: str) -> tuple[Kernel, ...]:
    """The primitives in a log of oneDNN (``ONEDNN_VERBOSE=1``, version 1 of its template)."""
    return tuple(_primitive(match[1]) for match in map(_VERBOSE.match, text.splitlines()) if match is not None)


def cuda_precision(kernel: str, operands: Sequence[str]) -> str:
    """In which precision a CUDA kernel of this name reads: by the name if that tells, otherwise by the profiler's names
    of the types that its operator was given."""
    named = next((what for what, pattern in _KERNEL_NAMES if pattern.search(kernel.lower())), "")
    found = named or _narrowest(operands)
    # Products of cuBLAS that are named so run on tensor cores, which take no float32.
    return "tf32" if kernel.startswith("nvjet") and found == "fp32" else found


def _primitive(line: str) -> Kernel:
    words = line.split(",")
    operands = [_ONEDNN_TYPES.get(name, name) for name in _OPERAND.findall(line)]
    order = [name for name, _ in _WIDTHS]
    precision = min(operands, key=lambda one: order.index(one) if one in order else len(order), default="")
    return Kernel(words[0], words[1], precision, float(words[-1]) * _MILLI)


def _launched(event: FunctionEvent, types: dict[int, tuple[str, ...]]) -> Iterator[Kernel]:
    for kernel in event.kernels:
        precision = cuda_precision(kernel.name, types.get(event.id, ()))
        yield Kernel(event.name, kernel.name, precision, kernel.duration * _MICRO)


def _operators(events: Sequence[FunctionEvent], types: dict[int, tuple[str, ...]]) -> Iterator[Kernel]:
    for event in events:
        if _BOOKKEEPING.match(event.name) or (_WRAPPERS.match(event.name) and event.cpu_children):
            continue
        if "::" in event.name:
            named = next((name for part, name in _NAMED.items() if part in event.name), "")
            precision = named or _narrowest(types.get(event.id, ()))
            yield Kernel(event.name, event.name, precision, event.self_cpu_time_total * _MICRO)
        elif event.name.startswith(("cpp_fused", "triton_")):
            yield Kernel(event.name, event.name, "", event.self_cpu_time_total * _MICRO)


def _narrowest(operands: Sequence[str]) -> str:
    return next((name for name, names in _WIDTHS if any(one in names for one in operands)), "")
