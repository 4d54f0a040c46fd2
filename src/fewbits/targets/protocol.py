"""What the rest of fewbits knows of a runtime: what it can run, how to open a model, what really ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from fewbits.data.batches import Arrays
from fewbits.graph import Graph
from fewbits.grouping import Group
from fewbits.machine import Machine
from fewbits.models.protocol import Artifact
from fewbits.space import Menu


@dataclass(frozen=True, slots=True)
class Executed:
    """One node as the runtime really ran it.

    `outputs` are tensor names of the opened model, the link back to groups; `seconds` is the
    `usual` time over the profiled calls, 0 where it was not profiled.
    """

    name: str
    kernel: str
    precision: str
    outputs: tuple[str, ...]
    seconds: float = 0.0


def usual(times: Sequence[float]) -> float:
    """The lower quartile of `times`: what else runs on a machine only ever adds to the time of a node.

    Raises ValueError on nothing.
    """
    ordered = sorted(times)
    if not ordered:
        raise ValueError("no times to choose from")
    return ordered[(len(ordered) - 1) // 4]


class Session(Protocol):
    """An opened model. A context manager. As many threads may call it at the same time as its target has streams."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """Outputs by name."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Target(Protocol):
    """A runtime on this machine with its options."""

    @property
    def name(self) -> str:
        """Text that `open_target` reads back, for example ``onnxruntime:cpu``."""

    @property
    def threads(self) -> int:
        """Threads that one call uses."""

    @property
    def streams(self) -> int:
        """How many calls of a session may run at the same time."""

    @property
    def machine(self) -> Machine:
        """The machine and the runtime's version."""

    def menu(self, graph: Graph, group: Group) -> Menu:
        """What `group` may become here."""

    def open(self, artifact: Artifact) -> Session:
        """Load `artifact`. Raises ModelError if the runtime refuses it."""

    def open_once(self, artifact: Artifact) -> Session:
        """The same model for a few calls: without what takes long and pays after many (compiling). Its numbers may
        differ in their last bits. Raises as `open`."""

    def files(self, artifact: Artifact, folder: Path) -> Mapping[str, Path]:
        """`artifact` in the runtime's own form, as files in `folder`, by their suffixes; none if that is ONNX."""

    def executed(self, artifact: Artifact, inputs: Arrays, calls: int) -> Sequence[Executed]:
        """Every node that ran: kernel, precision, and usual seconds over `calls` profiled calls, one at a time."""
