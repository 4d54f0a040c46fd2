"""PyTorch on a CPU or a GPU, call by call or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch

from fewbits.data.batches import Arrays
from fewbits.eligibility import module_obstacle
from fewbits.errors import DataError, ModelError, TargetError
from fewbits.formats.scheme import (
    BF16,
    FP16,
    FP32,
    INT4_BLOCKS,
    INT4_LONG_BLOCKS,
    INT4_SHIFTED_BLOCKS,
    INT8_DYNAMIC,
    INT8_SMOOTHED,
    INT8_STATIC,
    INT8_TOKENS,
    INT8_WEIGHT,
    TF32,
    Scheme,
)
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.machine import Machine
from fewbits.models.protocol import Artifact
from fewbits.models.pytorch.converted import Converted, array_of, opened
from fewbits.space import Menu, Refusal
from fewbits.targets.probe import this_machine, threads_of_stream
from fewbits.targets.protocol import Executed, Session
from fewbits.targets.pytorch_compiled import compiled_call, compiled_kernels, has_compiler
from fewbits.targets.pytorch_eager import timed_calls

_TOKENS = (INT8_TOKENS, Scheme.parse("w:int8r/channel a:int8r/token dynamic"))
_INT4 = (INT4_BLOCKS, INT4_SHIFTED_BLOCKS, INT4_LONG_BLOCKS)
_SCHEMES: Mapping[str, Sequence[Scheme]] = {
    "cpu": (
        INT8_STATIC,
        BF16,
        FP16,
        INT8_DYNAMIC,
        INT8_TOKENS,
        INT8_WEIGHT,
        *_INT4,
    ),
    "cuda": (
        BF16,
        FP16,
        TF32,
        Scheme.parse("w:fp8_e4m3/channel a:fp8_e4m3/token dynamic"),
        Scheme.parse("w:fp8_e4m3/tensor a:fp8_e4m3/tensor dynamic"),
        _TOKENS[1],
        INT8_WEIGHT,
        INT4_LONG_BLOCKS,
    ),
}
"""What is asked of a device; whether it runs, and pays, is measured."""
_SMOOTHED: Mapping[str, Sequence[Scheme]] = {
    device: (
        *[INT8_SMOOTHED] * (INT8_STATIC in schemes),
        *(replace(one, smoothed=True) for one in schemes if one in _INT4 or one in _TOKENS),
    )
    for device, schemes in _SCHEMES.items()
}
"""The same for products by a matrix, whose activations may be divided by factors before."""


@dataclass(frozen=True, slots=True)
class TorchSession:
    """An opened module; calling it runs it once, in inference mode, with `threads` threads of its own."""

    module: Converted
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    device: str
    threads: int
    call: Callable[..., Sequence[torch.Tensor]]

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs by name. Raises DataError if the module refuses `inputs`."""
        given = _given(self.names, inputs, self.device)
        with _threads(self.threads), torch.inference_mode():
            try:
                found = self.call(*given)
            except (RuntimeError, IndexError, ValueError) as error:
                raise DataError(f"the model does not run on {_shapes(inputs)}: {error}") from error
            # Reading a result waits for the device.
            return {name: array_of(value) for name, value in zip(self.outputs, found, strict=True)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to do: memory is freed with the last reference."""


@dataclass(frozen=True, slots=True)
class Torch:
    """PyTorch on `device` (``cpu`` or ``cuda``), as it is or `compiled` by ``torch.compile``."""

    threads: int
    streams: int = 1
    device: str = "cpu"
    compiled: bool = False

    @classmethod
    def of(cls, threads: int, streams: int = 1, device: str = "cpu", *, compiled: bool = False) -> Torch:
        """With `threads` threads, 0 for every core. Raises UsageError on more than there are, TargetError without a
        CUDA device where one is asked for."""
        if device == "cuda" and not torch.cuda.is_available():
            raise TargetError("there is no CUDA device, or PyTorch was built without CUDA; choose torch:cpu")
        if compiled and device == "cpu" and not has_compiler():
            raise TargetError(
                "torch:cpu:compiled needs a C++ compiler, and there is none; install g++ or clang++ (the variable CXX "
                "names another one), or choose torch:cpu"
            )
        return cls(threads_of_stream(threads, streams), streams, device, compiled)

    @property
    def name(self) -> str:
        """Text that `open_target` reads back."""
        return f"torch:{self.device}{':compiled' if self.compiled else ''}"

    @property
    def machine(self) -> Machine:
        """The machine and the versions of what runs models on it; the GPU, where that computes, stands with the CPU."""
        machine = this_machine(("fewbits", "torch", "numpy"))
        if self.device == "cpu":
            return machine
        return replace(machine, cpu=f"{machine.cpu} with {torch.cuda.get_device_name()}")

    def menu(self, graph: Graph, group: Group) -> Menu:
        """What can be asked for `group` here."""
        by_matrix = bool(group.weight) and group.kind in (Kind.MATMUL, Kind.GEMM)
        asked = (*_SCHEMES[self.device], *(_SMOOTHED[self.device] if by_matrix else ()))
        reasons = {one: module_obstacle(graph, group, one) for one in asked}
        return Menu(
            (FP32, *(scheme for scheme, reason in reasons.items() if not reason)),
            tuple(Refusal(scheme, reason) for scheme, reason in reasons.items() if reason),
        )

    def open(self, artifact: Artifact) -> Session:
        """Load `artifact`. Raises ModelError if it is no converted module, or a call of it does not compile."""
        module = opened(artifact.content, self.device)
        graph = module.graph_module
        call = compiled_call(graph) if self.compiled else graph
        return TorchSession(module, _names(module), module.names, self.device, self.threads, call)

    def open_once(self, artifact: Artifact) -> Session:
        """See Target.open_once: call by call."""
        return replace(self, compiled=False).open(artifact)

    def files(self, artifact: Artifact, folder: Path) -> Mapping[str, Path]:
        """None: a stored module is its own form."""
        return {}

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        """See Target.executed. Call by call, each is timed by itself, and oneDNN's log, or the kernels that a GPU was
        given, say what products ran in; what is compiled is profiled as a whole, and its kernels say which calls they
        compute for. Raises ModelError if PyTorch does not run or compile it, WorkerError if the log cannot be read."""
        module = opened(artifact.content, self.device)
        given = _given(_names(module), inputs, self.device)
        with _threads(self.threads), torch.inference_mode():
            try:
                if self.compiled:
                    return compiled_kernels(module, given, calls, self.device)
                return timed_calls(module, given, calls, self.device)
            except (RuntimeError, IndexError, ValueError) as error:
                what = "compile" if self.compiled else "run"
                raise ModelError(f"PyTorch {torch.__version__} does not {what} the model: {error}") from error


def _names(module: Converted) -> tuple[str, ...]:
    """What `module` reads, in order."""
    return tuple(str(node.target) for node in module.graph.nodes if node.op == "placeholder")


def _given(names: Sequence[str], inputs: Arrays, device: str) -> list[torch.Tensor]:
    missing = [name for name in names if name not in inputs]
    if missing:
        raise DataError(f"the input {missing[0]} is missing; the model reads {', '.join(names)}")
    return [torch.from_numpy(np.ascontiguousarray(inputs[name])).to(device) for name in names]


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """PyTorch with `wanted` threads, and as many as before afterwards: the setting is the whole process's."""
    before = torch.get_num_threads()
    if before != wanted:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if before != wanted:
            torch.set_num_threads(before)


def _shapes(inputs: Arrays) -> str:
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
