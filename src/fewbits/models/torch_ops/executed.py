"""Which kernels really ran: read from PyTorch's profiler, and for the CPU from oneDNN's own words."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import fx
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile, record_function

from fewbits.errors import WorkerError
from fewbits.models.torch_ops.kernels import WIDTHS, Kernel, cuda_precision, narrowest
from fewbits.models.torch_ops.profiling import profiled, wait

_WARM: Final = 2
_MICRO: Final = 1e-6
_MILLI: Final = 1e-3
_CHILD_SECONDS: Final = 300

_BOOKKEEPING: Final = re.compile(
    r"aten::(empty|empty_strided|empty_like|resize_|as_strided|view|reshape|_reshape_alias|unsqueeze|squeeze|expand|t|"
    r"transpose|slice|select|narrow|item|_local_scalar_dense|detach|alias|result_type|contiguous|to|_to_copy|new_empty|"
    r"_unsafe_view|resolve_conj|resolve_neg)\Z"
)
_WRAPPERS: Final = re.compile(r"aten::(linear|matmul|pad|conv[123]d|convolution|_convolution|where|embedding)\Z")
"""What calls others to compute."""
_GENERATED: Final = ("cpp_fused", "triton_")
"""What names of compiled kernels begin with."""
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


def executed(call: Callable[[], object]) -> tuple[Kernel, ...]:
    """Every kernel of one `call`, in order of time; those of the GPU if it launches any, otherwise operators.

    `call` is run three times: what compiles or packs at first has done so before it is looked at. Operators that move
    nothing (views, allocations) are left out; seconds are their own, without those that they call.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for _ in range(_WARM):
        call()
    with profiled(device) as found:
        call()
        wait(device)
    types = operand_types(found)
    events = sorted(found.events() or (), key=lambda one: one.time_range.start)
    on_host = [one for one in events if one.device_type == DeviceType.CPU]
    return tuple(launched(on_host, types)) or tuple(_operators(on_host, types))


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
    return _by_call(module, inputs, "cpu", _operators)


def launched_by_call(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Mapping[int, tuple[Kernel, ...]]:
    """The kernels that every call of a graph launches on the GPU, by its number among them, read from the profiler
    while it runs call by call; the operator is the innermost one around a launch. Calls that launch nothing are left
    out."""
    return _by_call(module, inputs, "cuda", launched)


_Types = Mapping[int, tuple[str, ...]]
"""Event of the profiler → the types that its operator was given."""


def operand_types(found: profile) -> _Types:
    """The types of what every operator in a profile was given, in the profiler's names."""
    results = found.profiler.kineto_results if found.profiler is not None else None
    types: dict[int, tuple[str, ...]] = {}
    for event in () if results is None else results.events():
        # What the profiler does for itself within an operator has the operator's number, and no types.
        if event.correlation_id() not in types or event.dtypes():
            types[event.correlation_id()] = tuple(event.dtypes())
    return types


def launched(events: Iterable[FunctionEvent], types: _Types) -> Iterator[Kernel]:
    """What operators and generated kernels among `events` launched on the GPU. Others only stand around them, or are
    the profiler's own, to which it counts kernels a second time."""
    for event in events:
        if "::" not in event.name and not event.name.startswith(_GENERATED):
            continue
        for kernel in event.kernels:
            precision = cuda_precision(kernel.name, types.get(event.id, ()))
            yield Kernel(event.name, kernel.name, precision, kernel.duration * _MICRO)


def _by_call(
    module: fx.GraphModule,
    inputs: Sequence[torch.Tensor],
    device: str,
    kernels: Callable[[Sequence[FunctionEvent], _Types], Iterator[Kernel]],
) -> Mapping[int, tuple[Kernel, ...]]:
    runs = _Naming(module)
    runs.run(*inputs)
    runs.number = 0
    with profiled(device) as found:
        runs.run(*inputs)
        wait(device)
    types = operand_types(found)
    parts: dict[int, list[FunctionEvent]] = {}
    for event in found.events() or ():
        number = _number(event)
        if number >= 0:
            parts.setdefault(number, []).append(event)
    ran = {number: tuple(kernels(events, types)) for number, events in parts.items()}
    return {number: one for number, one in ran.items() if one}


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


def _primitive(line: str) -> Kernel:
    words = line.split(",")
    operands = [_ONEDNN_TYPES.get(name, name) for name in _OPERAND.findall(line)]
    order = [name for name, _ in WIDTHS]
    precision = min(operands, key=lambda one: order.index(one) if one in order else len(order), default="")
    return Kernel(words[0], words[1], precision, float(words[-1]) * _MILLI)


def _operators(events: Sequence[FunctionEvent], types: _Types) -> Iterator[Kernel]:
    for event in events:
        if _BOOKKEEPING.match(event.name) or (_WRAPPERS.match(event.name) and event.cpu_children):
            continue
        if "::" in event.name:
            named = next((name for part, name in _NAMED.items() if part in event.name), "")
            precision = named or narrowest(types.get(event.id, ()))
            yield Kernel(event.name, event.name, precision, event.self_cpu_time_total * _MICRO)
        elif event.name.startswith(_GENERATED):
            yield Kernel(event.name, event.name, "", event.self_cpu_time_total * _MICRO)
