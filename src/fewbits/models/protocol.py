"""What the rest of fewbits knows of a model: its graph, its weights, its activations, and how to convert it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from fewbits.codes import Codes
from fewbits.data.batches import Array, Arrays, Batch
from fewbits.graph import Graph, Tensor
from fewbits.grouping import Group
from fewbits.plan import Plan
from fewbits.transfer import Correspondence

ONNX = ".onnx"
TORCH = ".pt"
TORCH_EMULATED = "torch:emulated"
"""The target of a plan whose schemes a PyTorch module only emulates, in float32."""


@dataclass(frozen=True)
class Artifact:
    """What a target opens: an ONNX model, or a stored PyTorch module; `suffix` is that of its file, ``.onnx`` or
    ``.pt``.

    `content` is complete in itself where there is no `path`. Otherwise it is what the file at `path` holds, and
    `outside` bytes of weights lie in files beside that one, under the names that `content` gives them; those files stay
    at least as long as the artefact, which `keeps` them. `reads` are files of the user's that it goes on reading.
    """

    content: bytes
    path: Path | None = None
    outside: int = 0
    reads: tuple[Path, ...] = ()
    keeps: object = field(default=None, repr=False, compare=False)
    suffix: str = ONNX

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return len(self.content) + self.outside


@dataclass(frozen=True)
class Packed:
    """An artefact as it is saved: the `content` of the model's file, and the `outside` bytes of weights of the file
    beside it, as `weights` gives them little by little; there is no such file where `outside` is 0."""

    content: bytes
    outside: int = 0
    weights: Callable[[], Iterator[bytes]] = lambda: iter(())


@dataclass(frozen=True)
class Regions:
    """Groups cut out of a model. `inputs`: name of the cut-out model's input → the tensor of the whole model whose
    values it takes."""

    model: Model
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class Inside:
    """Where a sum is computed that a runtime adds in the kernel of a `product`, if both are on codes. `reader` is a
    product that reads it as codes; nothing if somebody takes floats, so that floats are added, whatever a plan says."""

    product: Group
    reader: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Served:
    """A model as it is stored, to be run: what it reads, and what a target opens."""

    inputs: Sequence[Tensor]
    artifact: Artifact


@dataclass(frozen=True)
class Twins:
    """One model in two representations: a PyTorch `module` and its `onnx` export. `same` pairs groups and tensors of
    the first with those of the second."""

    module: Model
    onnx: Model
    same: Correspondence


class Model(Protocol):
    """A trained model. Immutable: converting makes a new artefact and leaves this as it was."""

    @property
    def graph(self) -> Graph:
        """Nodes and tensors."""

    @property
    def inputs(self) -> Sequence[Tensor]:
        """What the model reads, in order, without its weights."""

    @property
    def outputs(self) -> Sequence[Tensor]:
        """What the model gives, in order."""

    @property
    def sha256(self) -> str:
        """Hash of the model's bytes, weights included, wherever these lie."""

    @property
    def device(self) -> str:
        """Where its weights are: ``cpu`` or ``cuda``."""

    @property
    def source(self) -> Path | None:
        """The file it was read from, if there is one."""

    def weight(self, name: str) -> Array:
        """The constant tensor `name`. Raises KeyError."""

    @property
    def inside(self) -> Mapping[str, Inside]:
        """The sums that are computed in the kernel of a product where both are on codes."""

    def observe(self, batches: Iterable[Batch], tensors: Sequence[str]) -> Iterator[Arrays]:
        """The values that `tensors` of the original model take, one mapping per batch."""

    def regions(self, groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]) -> Regions:
        """`groups` side by side as a model of their own; `shapes` gives the shape of each operand in one call."""

    def original(self) -> Artifact:
        """The model as it was given."""

    def knowing(self, codes: Codes) -> Self:
        """The same model, beside `codes` that plans for it name."""

    def equalised(self, factors: Mapping[str, str]) -> Self:
        """The same function with the channels of tensors between products divided by `factors` (`fewbits.smoothing`),
        tensor → factors. `original` stays what was given. Raises PlanError if they do not fit."""

    def converted(self, plan: Plan) -> Artifact:
        """The model under `plan`. Raises PlanError if the plan does not fit."""
