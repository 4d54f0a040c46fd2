"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import onnx
import openvino as ov

from fewbits.data.batches import Arrays
from fewbits.errors import DataError, ModelError
from fewbits.formats.scheme import (
    BF16,
    FP16,
    INT8_SMOOTHED,
    INT8_SYMMETRIC,
    INT8_SYMMETRIC_PAIR,
    INT8_SYMMETRIC_SMOOTHED,
    INT8_WEIGHT,
)
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.machine import Machine
from fewbits.models.protocol import Artifact
from fewbits.space import Menu
from fewbits.targets.menu import menu
from fewbits.targets.openvino_readback import readback
from fewbits.targets.pool import SessionPool
from fewbits.targets.probe import this_machine, threads_of_stream
from fewbits.targets.protocol import Executed, Session

# Every node in the type that the model says. The default is bf16 or f16 for everything where the CPU has them, and f32
# strips casts to f16.
_AS_WRITTEN: Final = {"INFERENCE_PRECISION_HINT": "dynamic"}
_SCHEMES: Final = (BF16, FP16, INT8_WEIGHT)
_SINK: Final = "/sink_port_0"
_ADVICE: Final = "Frontend Extension"


@dataclass(frozen=True, slots=True)
class OpenVinoSession:
    """A compiled model; calling it runs it once. `unread` are inputs that no node reads, which the runtime drops."""

    request: ov.InferRequest
    inputs: tuple[frozenset[str], ...]
    outputs: tuple[str, ...]
    unread: frozenset[str] = frozenset()

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs by name. Raises DataError if the runtime refuses `inputs`."""
        # The runtime itself would go on with whatever it finds in the place of an absent one.
        absent = [min(names) for names in self.inputs if names.isdisjoint(inputs)]
        if absent:
            raise DataError(f"the model does not run without its inputs {', '.join(absent)}; given are {list(inputs)}")
        given = {name: np.asarray(array) for name, array in inputs.items() if name not in self.unread}
        try:
            found = self.request.infer(given, share_inputs=True)
        except (RuntimeError, TypeError, ValueError) as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
            raise DataError(f"the model does not run on {shapes}: {_reason(error)}") from error
        return dict(zip(self.outputs, found.to_tuple(), strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to do: the runtime frees a model with its last reference."""


@dataclass(frozen=True, slots=True)
class OpenVino:
    """The CPU plug-in with a fixed number of threads per request and no precision of its own choice."""

    threads: int
    streams: int = 1

    @classmethod
    def of(cls, threads: int, streams: int = 1) -> OpenVino:
        """With `threads` threads, 0 for every core, shared out to `streams`. Raises UsageError on more than there
        are."""
        return cls(threads_of_stream(threads, streams), streams)

    @property
    def name(self) -> str:
        """Text that `open_target` reads back."""
        return "openvino:cpu"

    @property
    def machine(self) -> Machine:
        """The machine and the versions of what runs models on it."""
        return this_machine(("fewbits", "openvino", "onnx", "onnx-ir", "numpy"))

    def menu(self, graph: Graph, group: Group) -> Menu:
        """What can be asked for `group` here."""
        # A zero point of the activation costs a product by a matrix a correction; a convolution pads with it for free.
        symmetric = (INT8_SYMMETRIC,) if group.weight and group.kind in (Kind.MATMUL, Kind.GEMM) else ()
        smoothed = (INT8_SMOOTHED, INT8_SYMMETRIC_SMOOTHED) if symmetric else ()
        return menu(graph, group, (*symmetric, *smoothed, *_SCHEMES), INT8_SYMMETRIC_PAIR)

    def open(self, artifact: Artifact) -> Session:
        """Compile `artifact`. Raises ModelError with the runtime's own words."""
        compiled = self._compiled(artifact, _hints(self.threads, self.streams))
        if self.streams == 1:
            return session_of(compiled, _unread(compiled, artifact))
        # OpenVINO's Python layer fills tables at its first conversion from and to an array; two threads that are both
        # the first wait for each other for ever (seen with 2026.4).
        _ = ov.Tensor(np.zeros(1, np.float32)).data
        # Requests that wait for their result, each called by a thread of its own: with the queue of asynchronous ones,
        # whose callbacks run in Python, small models have half the throughput.
        unread = _unread(compiled, artifact)
        return SessionPool([session_of(compiled, unread) for _ in range(self.streams)])

    def open_once(self, artifact: Artifact) -> Session:
        """The same: nothing here pays after many calls only."""
        return self.open(artifact)

    def files(self, artifact: Artifact, folder: Path) -> Mapping[str, Path]:
        """OpenVINO's intermediate representation: ``.xml`` and ``.bin``. Raises ModelError."""
        path = folder / "model.xml"
        try:
            # Not compressed: the plan says which weights are small.
            ov.save_model(_read(ov.Core(), artifact), path, compress_to_fp16=False)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO {ov.__version__} does not load the model: {_reason(error)}") from error
        return {suffix: path.with_suffix(suffix) for suffix in (".xml", ".bin")}

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        """See Target.executed: the runtime model gives the nodes, the performance counters their times."""
        compiled = self._compiled(artifact, {**_hints(self.threads, 1), "PERF_COUNT": True})
        session = session_of(compiled, _unread(compiled, artifact))
        profiles = []
        for _ in range(calls):
            session(inputs)
            profiles.append(session.request.get_profiling_info())
        return readback(compiled.get_runtime_model(), profiles)

    def _compiled(self, artifact: Artifact, hints: Mapping[str, str | int]) -> ov.CompiledModel:
        core = ov.Core()
        try:
            return core.compile_model(_read(core, artifact), "CPU", dict(hints))
        except RuntimeError as error:
            raise ModelError(f"OpenVINO {ov.__version__} does not load the model: {_reason(error)}") from error


def _read(core: ov.Core, artifact: Artifact) -> ov.Model:
    """`artifact` from its path, where weights lie beside it. Raises RuntimeError."""
    return core.read_model(artifact.content, b"") if artifact.path is None else core.read_model(artifact.path)


def _hints(threads: int, streams: int) -> dict[str, str | int]:
    """For `streams` requests at the same time with `threads` threads each."""
    return {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads * streams,
        **_AS_WRITTEN,
    }


def session_of(compiled: ov.CompiledModel, unread: frozenset[str] = frozenset()) -> OpenVinoSession:
    """A session that runs `compiled`; `unread` are the inputs of its model that no node reads."""
    inputs = tuple(frozenset(value.get_names()) for value in compiled.inputs)
    request, outputs = compiled.create_infer_request(), tuple(_name(output) for output in compiled.outputs)
    return OpenVinoSession(request, inputs, outputs, unread)


def _unread(compiled: ov.CompiledModel, artifact: Artifact) -> frozenset[str]:
    """The inputs of `artifact` that no node reads, which `compiled` has not."""
    graph = onnx.load_model_from_string(artifact.content).graph
    read = {name for node in graph.node for name in node.input}
    known = frozenset[str]().union(*(value.get_names() for value in compiled.inputs))
    return frozenset({value.name for value in graph.input} - read - known)


def _name(output: ov.ConstOutput) -> str:
    """The ONNX name of `output`: its result is called after it. A tensor may have several names, or have lost this
    one where two outputs are the same tensor."""
    names, result = output.get_names(), str(output.get_node().get_friendly_name())
    return result.removesuffix(_SINK) if result.endswith(_SINK) or not names else str(min(names))


def _reason(error: Exception) -> str:
    """The last line that says something: the first ones are places in the runtime's own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and _ADVICE not in line]
    return lines[-1] if lines else type(error).__name__
