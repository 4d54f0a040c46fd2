"""PyTorch on a CPU or a GPU, call by call or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import fx

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
from fewbits.models.pytorch.converted import Converted, Label, array_of, opened
from fewbits.space import Menu, Refusal
from fewbits.targets.probe import this_machine, threads_of_stream
from fewbits.targets.protocol import Executed, Session, usual

_DROPPED_CALLS = 2
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
        Scheme.parse("w:int8r/channel a:int8r/token dynamic"),
        INT8_WEIGHT,
        INT4_LONG_BLOCKS,
    ),
}
"""What is asked of a device; whether it runs, and pays, is measured."""
_SMOOTHED: Mapping[str, Sequence[Scheme]] = {
    device: (
        *[INT8_SMOOTHED] * (INT8_STATIC in schemes),
        *(replace(one, smoothed=True) for one in schemes if one in _INT4),
    )
    for device, schemes in _SCHEMES.items()
}
"""The same for products by a matrix, whose activations may be divided by factors before."""
_PRECISIONS = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int8: "int8",
    torch.uint8: "int8",
}


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
        given = self._given(inputs)
        with _threads(self.threads), torch.inference_mode():
            try:
                found = self.call(*given)
            except (RuntimeError, IndexError, ValueError) as error:
                raise DataError(f"the model does not run on {_shapes(inputs)}: {error}") from error
            # Reading a result waits for the device.
            return {name: array_of(value) for name, value in zip(self.outputs, found, strict=True)}

    def _given(self, inputs: Arrays) -> list[torch.Tensor]:
        missing = [name for name in self.names if name not in inputs]
        if missing:
            raise DataError(f"the input {missing[0]} is missing; the model reads {', '.join(self.names)}")
        return [torch.from_numpy(np.ascontiguousarray(inputs[name])).to(self.device) for name in self.names]

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
        return cls(threads_of_stream(threads, streams), streams, device, compiled)

    @property
    def name(self) -> str:
        """Text that `open_target` reads back."""
        return f"torch:{self.device}{':compiled' if self.compiled else ''}"

    @property
    def machine(self) -> Machine:
        """The machine and the versions of what runs models on it."""
        return this_machine(("fewbits", "torch", "numpy"))

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
        names = tuple(str(node.target) for node in graph.graph.nodes if node.op == "placeholder")
        call = torch.compile(graph, dynamic=False) if self.compiled else graph
        return TorchSession(module, names, module.names, self.device, self.threads, call)

    def files(self, artifact: Artifact, folder: Path) -> Mapping[str, Path]:
        """None: a stored module is its own form."""
        return {}

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        """See Target.executed: every call is timed by itself, so that what is compiled is not seen."""
        session = self.open(artifact)
        assert isinstance(session, TorchSession)
        timing = _Timing(session.module, self.device)
        given = session._given(inputs)
        with _threads(self.threads), torch.inference_mode():
            for _ in range(calls + _DROPPED_CALLS):
                try:
                    timing.run(*given)
                except (RuntimeError, IndexError, ValueError) as error:
                    raise ModelError(f"PyTorch {torch.__version__} does not run the model: {error}") from error
        return timing.executed()


class _Timing(fx.Interpreter):
    """Runs a graph call by call and keeps how long each took."""

    def __init__(self, module: Converted, device: str) -> None:
        super().__init__(module.graph_module)
        self._synchronise = device == "cuda"
        calls = [node for node in module.graph.nodes if node.op in ("call_function", "call_module")]
        self._labels = dict(zip(calls, module.labels, strict=True))
        self._seconds: dict[fx.Node, list[float]] = {}
        self._precision: dict[fx.Node, str] = {}

    def run_node(self, n: fx.Node) -> object:
        """Run and time one call."""
        if n not in self._labels:
            return super().run_node(n)
        before = perf_counter()
        value = super().run_node(n)
        if self._synchronise:
            torch.cuda.synchronize()
        self._seconds.setdefault(n, []).append(perf_counter() - before)
        self._precision[n] = self._ran_in(n, value)
        return value

    def _ran_in(self, node: fx.Node, value: object) -> str:
        label: Label = self._labels[node]
        if label.precision:
            return label.precision
        if label.name.endswith((".quantize", ".float32")):
            return "boundary"
        first = value[0] if isinstance(value, tuple) else value
        return _PRECISIONS.get(first.dtype, str(first.dtype)) if isinstance(first, torch.Tensor) else "unknown"

    def executed(self) -> tuple[Executed, ...]:
        """What ran, in order."""
        return tuple(
            Executed(
                self._labels[node].name,
                self._labels[node].kernel or str(node.target).removeprefix("aten.").removesuffix(".default"),
                self._precision[node],
                (self._labels[node].name,),
                usual(seconds[_DROPPED_CALLS:]),
            )
            for node, seconds in self._seconds.items()
        )


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
