"""PyTorch models behind the `Model` protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import nn

from fewbits.codes import Codes
from fewbits.data.batches import Array, Arrays, Batch
from fewbits.errors import ModelError, PlanError
from fewbits.graph import Graph, Tensor
from fewbits.grouping import Group
from fewbits.models.protocol import Artifact, Inside, Regions
from fewbits.models.pytorch.call_form import Arguments
from fewbits.models.pytorch.converted import Converted, array_of, artifact
from fewbits.models.pytorch.converting import convert, plain
from fewbits.models.pytorch.equalising import equalised
from fewbits.models.pytorch.examples import example_of
from fewbits.models.pytorch.exporting import Dynamic, export, loaded
from fewbits.models.pytorch.graph import Described, describe
from fewbits.models.pytorch.inside import inside
from fewbits.models.pytorch.observing import device_of, observe
from fewbits.models.pytorch.program import Program, digest, weight_of
from fewbits.models.pytorch.regions import cut
from fewbits.plan import Plan


@dataclass(frozen=True)
class TorchModel:
    """A PyTorch model. Weights are shared with the module that it was made from, which is never changed. Where
    `_factors` equalise its channels, `_plain` is what it was before."""

    program: Program
    described: Described
    sha256: str
    source: Path | None = None
    _codes: Codes = field(default_factory=dict)
    _plain: TorchModel | None = None
    _factors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, example: Arguments, dynamic: Dynamic | None = None) -> TorchModel:
        """`module` as it computes on arguments such as `example`. Raises ModelError."""
        return cls._of(export(module, example, dynamic))

    @classmethod
    def of_items(cls, module: nn.Module, items: Sequence[object]) -> TorchModel:
        """`module` as it computes on batches such as `items`. Raises ModelError, DataError."""
        return cls.of(module, *example_of(module, items))

    @classmethod
    def of_program(cls, program: torch.export.ExportedProgram, source: Path | None = None) -> TorchModel:
        """A `program` that was exported already, read from the file `source`. Raises ModelError."""
        return replace(cls._of(loaded(program)), source=source)

    @classmethod
    def _of(cls, program: Program) -> TorchModel:
        _check_weights(program)
        return cls(program, describe(program), digest(program.module))

    @property
    def graph(self) -> Graph:
        """Nodes and tensors."""
        return self.described.graph

    @property
    def inputs(self) -> Sequence[Tensor]:
        """What the model reads, in order, without its weights."""
        return tuple(self.graph.tensors[name] for name in self.graph.inputs)

    @property
    def outputs(self) -> Sequence[Tensor]:
        """What the model gives, in order."""
        names = self.program.call.names
        tensors = [self.graph.tensors[name] for name in self.graph.outputs]
        return tuple(replace(tensor, name=name) for name, tensor in zip(names, tensors, strict=True))

    @property
    def device(self) -> str:
        """Where its weights are."""
        return device_of(self.program).type

    def weight(self, name: str) -> Array:
        """The constant tensor `name`. Raises KeyError."""
        if not self.graph.is_constant(name):
            raise KeyError(name)
        return array_of(weight_of(self.program.module, name))

    @property
    def inside(self) -> Mapping[str, Inside]:
        """Sums that convolutions take along."""
        return self._inside

    @cached_property
    def _inside(self) -> Mapping[str, Inside]:
        return inside(self.graph)

    def observe(self, batches: Iterable[Batch], tensors: Sequence[str]) -> Iterator[Arrays]:
        """See Model.observe."""
        return observe(self.program, self.described, batches, tensors)

    def regions(self, groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]) -> Regions:
        """See Model.regions."""
        found = cut(self.program, self.described, groups)
        return Regions(TorchModel._of(found.program), found.inputs)

    def original(self) -> Artifact:
        """The model as it was given."""
        return self._original

    @cached_property
    def _original(self) -> Artifact:
        whole = self if self._plain is None else self._plain
        return artifact(plain(whole.program, whole.described))

    def knowing(self, codes: Codes) -> Self:
        """See Model.knowing."""
        return replace(self, _codes=codes)

    def equalised(self, factors: Mapping[str, str]) -> Self:
        """See Model.equalised."""
        if factors == self._factors:
            return self
        whole = self if self._plain is None else self._plain
        program = equalised(whole.program, whole.described, factors) if factors else whole.program
        return replace(self, program=program, described=describe(program), _plain=whole, _factors=dict(factors))

    def converted(self, plan: Plan) -> Artifact:
        """The model under `plan`. Raises PlanError if the plan does not fit."""
        return artifact(self.module(plan))

    def module(self, plan: Plan) -> Converted:
        """The model under `plan`, as a module. Raises PlanError if the plan does not fit."""
        if plan.model_sha256 != self.sha256:
            raise PlanError(
                f"the plan was made for another model ({plan.model_sha256[:12]}, not {self.sha256[:12]}); "
                "convert the model that the plan was made for, or apply it anyway with force=True"
            )
        model = self.equalised(plan.equalised)
        return convert(model.program, model.described, plan, self._codes)


def _check_weights(program: Program) -> None:
    for name, tensor in program.module.named_parameters():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"the weight {name} has NaN or infinite values; train the model again, or mend it")
