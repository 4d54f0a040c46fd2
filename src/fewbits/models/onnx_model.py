"""ONNX models behind the `Model` protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import onnx
import onnx_ir as ir

from fewbits.data.batches import Array, Arrays, Batch
from fewbits.errors import PlanError
from fewbits.graph import Graph, Tensor
from fewbits.models.onnx_convert import convert
from fewbits.models.onnx_graph import graph_of, tensor_of
from fewbits.models.onnx_load import check, check_weights, normalised, parse, read_file
from fewbits.models.onnx_observe import observe
from fewbits.models.protocol import Artifact
from fewbits.plan import Plan


def is_proto(source: object) -> TypeGuard[onnx.ModelProto]:
    """Whether `source` is an ``onnx.ModelProto``."""
    return isinstance(source, onnx.ModelProto)


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX model. `content` is what was given, in one piece; `_model` is never handed out."""

    content: bytes
    source: Path | None
    graph: Graph
    sha256: str
    _model: ir.Model

    @classmethod
    def load(cls, path: Path) -> OnnxModel:
        """Read the file at `path`. Raises ModelError."""
        return cls._of(read_file(path), str(path), path)

    @classmethod
    def from_bytes(cls, content: bytes) -> OnnxModel:
        """Read a model from memory. Raises ModelError."""
        return cls._of(parse(content, "the given bytes"), "the given model", None)

    @classmethod
    def _of(cls, proto: onnx.ModelProto, name: str, source: Path | None) -> OnnxModel:
        check(proto, name)
        content = proto.SerializeToString()
        model = normalised(proto)
        check_weights(model, name)
        return cls(content, source, graph_of(model), hashlib.sha256(content).hexdigest(), model)

    @property
    def inputs(self) -> Sequence[Tensor]:
        """What the model reads, in order, without its weights."""
        return tuple(tensor_of(value) for value in self._model.graph.inputs)

    @property
    def outputs(self) -> Sequence[Tensor]:
        """What the model gives, in order."""
        return tuple(tensor_of(value) for value in self._model.graph.outputs)

    def weight(self, name: str) -> Array:
        """The constant tensor `name`. Raises KeyError."""
        constant = self._model.graph.initializers[name].const_value
        if constant is None:
            raise KeyError(name)
        return constant.numpy()

    def observe(self, batches: Iterable[Batch], tensors: Sequence[str]) -> Iterator[Arrays]:
        """See Model.observe."""
        return observe(ir.to_proto(self._model), batches, tensors)

    def original(self) -> Artifact:
        """The model as it was given, external data included."""
        return Artifact(self.content)

    def converted(self, plan: Plan) -> Artifact:
        """The model under `plan`; a plan that leaves everything in fp32 gives the original back, bit for bit.

        Raises:
            PlanError: the plan was made for another model, or names groups or ranges that do not fit.
        """
        if plan.model_sha256 != self.sha256:
            raise PlanError(
                f"the plan was made for another model ({plan.model_sha256[:12]}, not {self.sha256[:12]}); "
                "tune this model, or convert the file that the plan was made for"
            )
        if not plan.low:
            return self.original()
        return Artifact(convert(self._model, self.graph, plan))
