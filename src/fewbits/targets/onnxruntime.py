"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as states

from fewbits.data.batches import Arrays
from fewbits.errors import DataError, ModelError
from fewbits.formats.scheme import (
    BF16,
    FP16,
    INT4_BLOCKS,
    INT4_LONG_BLOCKS,
    INT4_OTHER_BLOCKS,
    INT4_SHIFTED_BLOCKS,
    INT4_SMOOTHED,
    INT8_BLOCKS,
    INT8_DYNAMIC,
    INT8_DYNAMIC_PAIR,
    INT8_SMOOTHED,
)
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.machine import Machine
from fewbits.models.protocol import Artifact
from fewbits.space import Menu
from fewbits.targets.menu import menu
from fewbits.targets.onnxruntime_readback import readback
from fewbits.targets.pool import SessionPool
from fewbits.targets.probe import this_machine, threads_of_stream
from fewbits.targets.protocol import Executed, Session

_ERRORS_ONLY = 3
_FATAL_ONLY = 4
_WEIGHTS_APART = "session.optimized_model_external_initializers_file_name"
_SCHEMES = (
    *(BF16, FP16, INT8_DYNAMIC, INT8_BLOCKS, INT4_BLOCKS, INT4_SHIFTED_BLOCKS, INT4_LONG_BLOCKS),
    *INT4_OTHER_BLOCKS,
    *INT4_SMOOTHED,
)
_LOAD_ERRORS = (
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NoSuchFile,
    states.NotImplemented,
    states.RuntimeException,
)
# The runtime's Python layer raises ValueError on missing inputs, its native one the others.
_RUN_ERRORS = (states.Fail, states.InvalidArgument, states.NotImplemented, states.RuntimeException, ValueError)


@dataclass(frozen=True, slots=True)
class OnnxRuntimeSession:
    """A loaded model; calling it runs it once."""

    session: ort.InferenceSession
    outputs: tuple[str, ...]

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs by name. Raises DataError if the runtime refuses `inputs`."""
        try:
            return dict(zip(self.outputs, self.session.run(None, dict(inputs)), strict=True))
        except _RUN_ERRORS as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
            raise DataError(f"the model does not run on {shapes}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to do: the runtime frees a session with its last reference."""


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """The CPU execution provider with a fixed number of threads per call, all graph optimisations on."""

    threads: int
    streams: int = 1

    @classmethod
    def of(cls, threads: int, streams: int = 1) -> OnnxRuntime:
        """With `threads` threads, 0 for every core, shared out to `streams`. Raises UsageError on more than there
        are."""
        return cls(threads_of_stream(threads, streams), streams)

    @property
    def name(self) -> str:
        """Text that `open_target` reads back."""
        return "onnxruntime:cpu"

    @property
    def machine(self) -> Machine:
        """The machine and the versions of what runs models on it."""
        return this_machine(("fewbits", "onnxruntime", "onnx", "onnx-ir", "numpy"))

    def menu(self, graph: Graph, group: Group) -> Menu:
        """What can be asked for `group` here."""
        smoothed = (INT8_SMOOTHED,) if group.weight and group.kind in (Kind.MATMUL, Kind.GEMM) else ()
        dynamic = (INT8_DYNAMIC_PAIR,) if group.constant else ()
        return menu(graph, group, (*smoothed, *_SCHEMES, *dynamic))

    def open(self, artifact: Artifact) -> Session:
        """Load `artifact`. Raises ModelError with the runtime's own words."""
        # A session may be called by many threads at once, which is the documented use and holds the weights once. But
        # they share its thread pool; so streams of several threads have a session each, to keep their threads.
        if self.streams == 1 or self.threads == 1:
            return self._opened(artifact, self._options())
        return SessionPool([self._opened(artifact, self._options()) for _ in range(self.streams)])

    def open_once(self, artifact: Artifact) -> Session:
        """The same: nothing here pays after many calls only."""
        return self.open(artifact)

    def files(self, artifact: Artifact, folder: Path) -> Mapping[str, Path]:
        """None: ONNX is its own form."""
        return {}

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        """See Target.executed: the optimised graph gives the nodes, the profile their types and times."""
        with TemporaryDirectory(prefix="fewbits-") as folder:
            options = self._options()
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            # In one piece, a large model could not be written.
            options.add_session_config_entry(_WEIGHTS_APART, "optimised.data")
            options.enable_profiling = True
            # A model that does not load is no news here, and the profile that was not written even less.
            options.log_severity_level = _FATAL_ONLY
            options.profile_file_prefix = str(Path(folder) / "profile")
            opened = self._opened(artifact, options)
            for _ in range(calls):
                opened(inputs)
            profile = Path(opened.session.end_profiling())
            return readback(Path(options.optimized_model_filepath), profile)

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = _ERRORS_ONLY
        return options

    def _opened(self, artifact: Artifact, options: ort.SessionOptions) -> OnnxRuntimeSession:
        try:
            # From its path, weights beside it are found, and mapped instead of copied.
            source = artifact.content if artifact.path is None else str(artifact.path)
            session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except _LOAD_ERRORS as error:
            raise ModelError(f"ONNX Runtime {ort.__version__} does not load the model: {error}") from error
        return OnnxRuntimeSession(session, tuple(output.name for output in session.get_outputs()))
