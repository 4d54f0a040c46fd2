"""ONNX models behind the `Model` protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self, TypeGuard

import onnx
import onnx_ir as ir

from fewbits.codes import Codes
from fewbits.data.batches import Array, Arrays, Batch
from fewbits.errors import PlanError
from fewbits.graph import Graph, Tensor
from fewbits.grouping import Group
from fewbits.models.onnx_convert import convert
from fewbits.models.onnx_equalise import EqualiseChannels
from fewbits.models.onnx_finite import check_weights
from fewbits.models.onnx_graph import graph_of, tensor_of
from fewbits.models.onnx_names import array_of
from fewbits.models.onnx_normalise import normalised
from fewbits.models.onnx_observe import observe
from fewbits.models.onnx_read import check, check_size, read_bytes, read_file
from fewbits.models.onnx_region import regions
from fewbits.models.protocol import Artifact, Regions
from fewbits.plan import Plan


def is_proto(source: object) -> TypeGuard[onnx.ModelProto]:
    """Whether `source` is an ``onnx.ModelProto``."""
    return isinstance(source, onnx.ModelProto)


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX model. `content` is what was given, in one piece; `_model` is never handed
    out; where `_factors` equalise its channels, `_plain` is what it was before."""

    content: bytes
    source: Path | None
    graph: Graph
    sha256: str
    _model: ir.Model
    _outputs: tuple[onnx.ValueInfoProto, ...]
    _codes: Codes = field(default_factory=dict)
    _plain: ir.Model | None = None
    _factors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> OnnxModel:
        """Read the file at `path`. Raises ModelError."""
        content, proto = read_file(path)
        return cls._of(content, proto, str(path), path)

    @classmethod
    def from_bytes(cls, content: bytes) -> OnnxModel:
        """Read a model from memory. Raises ModelError."""
        name = "the given model"
        return cls._of(content, read_bytes(content, name), name, None)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto) -> OnnxModel:
        """Copy a model that is in memory already. Raises ModelError."""
        check_size(proto, "the given model")
        return cls.from_bytes(proto.SerializeToString())

    @classmethod
    def _of(cls, content: bytes, proto: onnx.ModelProto, name: str, source: Path | None) -> OnnxModel:
        check(content, proto, name)
        outputs = tuple(proto.graph.output)
        model = normalised(proto, name)
        check_weights(model, name)
        return cls(content, source, graph_of(model), hashlib.sha256(content).hexdigest(), model, outputs)

    @property
    def inputs(self) -> Sequence[Tensor]:
        """What the model reads, in order, without its weights."""
        return tuple(tensor_of(value) for value in self._model.graph.inputs)

    @property
    def outputs(self) -> Sequence[Tensor]:
        """What the model gives, in order."""
        return tuple(tensor_of(value) for value in self._model.graph.outputs)

    @property
    def device(self) -> str:
        """Always the CPU: a file is nowhere else."""
        return "cpu"

    def weight(self, name: str) -> Array:
        """The constant tensor `name`. Raises KeyError."""
        return array_of(self._constants[name])

    @cached_property
    def _constants(self) -> Mapping[str, ir.Value]:
        graph = self._model.graph
        values = (*graph.initializers.values(), *(value for node in graph for value in node.outputs))
        return {str(value.name): value for value in values if value.const_value is not None}

    def observe(self, batches: Iterable[Batch], tensors: Sequence[str]) -> Iterator[Arrays]:
        """See Model.observe."""
        return observe(self._model, self.graph, batches, tensors)

    def regions(self, groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]) -> Regions:
        """See Model.regions."""
        content, inputs = regions(self._model, groups, shapes)
        return Regions(OnnxModel.from_bytes(content), inputs)

    def original(self) -> Artifact:
        """The model as it was given, external data included."""
        return Artifact(self.content)

    def knowing(self, codes: Codes) -> Self:
        """See Model.knowing."""
        return replace(self, _codes=codes)

    def equalised(self, factors: Mapping[str, str]) -> Self:
        """See Model.equalised."""
        if factors == self._factors:
            return self
        plain = self._model if self._plain is None else self._plain
        model = EqualiseChannels(self.graph, factors)(plain.clone()).model if factors else plain
        return replace(self, _model=model, _plain=plain, _factors=dict(factors))

    def converted(self, plan: Plan) -> Artifact:
        """The model under `plan`; a plan that leaves everything in fp32 gives the original back, bit for bit.

        Raises:
            PlanError: the plan was made for another model, or names groups, ranges or codes that do not fit.
        """
        if plan.model_sha256 != self.sha256:
            raise PlanError(
                f"the plan was made for another model ({plan.model_sha256[:12]}, not {self.sha256[:12]}); "
                "tune this model, convert the file that the plan was made for, or apply it anyway with --force "
                "(force=True)"
            )
        if not plan.low:
            return self.original()
        model = self.equalised(plan.equalised)._model
        return Artifact(convert(model, self.graph, plan, self._outputs, self._codes))
