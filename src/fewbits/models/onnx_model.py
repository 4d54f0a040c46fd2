"""ONNX models behind the `Model` protocol."""

from __future__ import annotations

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
from fewbits.models.onnx_annex import LIMIT, Annex, annex_of, attach
from fewbits.models.onnx_convert import convert
from fewbits.models.onnx_digest import sha256_of
from fewbits.models.onnx_equalise import EqualiseChannels
from fewbits.models.onnx_finite import check_weights
from fewbits.models.onnx_graph import graph_of, tensor_of
from fewbits.models.onnx_mend import mend
from fewbits.models.onnx_names import array_of
from fewbits.models.onnx_normalise import normalised
from fewbits.models.onnx_observe import observe
from fewbits.models.onnx_outside import all_tensors
from fewbits.models.onnx_read import check, check_inside, read_bytes, read_file
from fewbits.models.onnx_region import regions
from fewbits.models.onnx_spill import bytes_within, spilled
from fewbits.models.onnx_write import written
from fewbits.models.protocol import Artifact, Inside, Regions
from fewbits.plan import Plan


def is_proto(source: object) -> TypeGuard[onnx.ModelProto]:
    """Whether `source` is an ``onnx.ModelProto``."""
    return isinstance(source, onnx.ModelProto)


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX model. `_original` is what was given; `_model` is never handed out; where `_factors` equalise its
    channels, `_plain` is what it was before. Weights that were given in other files stay there, and `_annex` has those
    of what is made of the model."""

    _original: Artifact
    source: Path | None
    graph: Graph
    sha256: str
    _model: ir.Model
    _outputs: tuple[onnx.ValueInfoProto, ...]
    _annex: Annex
    _codes: Codes = field(default_factory=dict)
    _plain: ir.Model | None = None
    _factors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, limit: int = LIMIT) -> OnnxModel:
        """Read the file at `path`. What is made of the model and has `limit` bytes or more is not in one piece. Raises
        ModelError."""
        return cls._read(path, path, Annex(limit))

    @classmethod
    def from_bytes(cls, content: bytes, limit: int = LIMIT) -> OnnxModel:
        """Read a model from memory. Raises ModelError."""
        name = "the given model"
        return cls._of(Artifact(content), read_bytes(content, name), name, None, Annex(limit))

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, limit: int = LIMIT) -> OnnxModel:
        """Copy a model that is in memory already. Raises ModelError; StorageError if it is too large for one piece, and
        there is no place for its weights."""
        annex = Annex(limit)
        if not annex.holds(sum(map(bytes_within, all_tensors(proto)))):
            return cls.from_bytes(proto.SerializeToString(), limit)
        check_inside(proto, "the given model")
        return cls._read(spilled(proto, annex), None, annex)

    @classmethod
    def _read(cls, path: Path, source: Path | None, annex: Annex) -> OnnxModel:
        """The model in the file at `path`."""
        content, proto, pieces = read_file(path)
        original = Artifact(content)
        if pieces:
            reads = tuple(dict.fromkeys((path.resolve(), *(piece.file for piece in pieces))))
            original = Artifact(content, path.resolve(), sum(piece.length for piece in pieces), reads, annex)
        return cls._of(original, proto, str(path), source, annex)

    @classmethod
    def _of(cls, original: Artifact, proto: onnx.ModelProto, name: str, source: Path | None, annex: Annex) -> OnnxModel:
        digest = sha256_of(original, proto)
        mended = mend(proto, name)
        check(original, proto, name, mended=mended)
        outputs = tuple(proto.graph.output)
        model = attach(normalised(proto, name), None if original.path is None else annex)
        check_weights(model, name)
        return cls(original, source, graph_of(model), digest, model, outputs, annex)

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

    @property
    def inside(self) -> Mapping[str, Inside]:
        """None: a sum is a node of its own, and its region has what its quantisers fuse with."""
        return {}

    def observe(self, batches: Iterable[Batch], tensors: Sequence[str]) -> Iterator[Arrays]:
        """See Model.observe."""
        return observe(self._model, self._annex, self.graph, batches, tensors)

    def regions(self, groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]) -> Regions:
        """See Model.regions."""
        model, inputs = regions(self._model, groups, shapes)
        cut = written(attach(model, annex_of(self._model)), self._annex)
        if cut.path is None:
            return Regions(OnnxModel.from_bytes(cut.content, self._annex.limit), inputs)
        return Regions(OnnxModel._read(cut.path, None, self._annex), inputs)

    def original(self) -> Artifact:
        """The model as it was given, its weights where they were given."""
        return self._original

    def knowing(self, codes: Codes) -> Self:
        """See Model.knowing."""
        return replace(self, _codes=codes)

    def equalised(self, factors: Mapping[str, str]) -> Self:
        """See Model.equalised."""
        if factors == self._factors:
            return self
        plain = self._model if self._plain is None else self._plain
        model = (
            EqualiseChannels(self.graph, factors)(attach(plain.clone(), annex_of(plain))).model if factors else plain
        )
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
        return replace(
            written(convert(model, self.graph, plan, self._codes), self._annex, self._outputs, checked=True),
            reads=self._original.reads,
        )
