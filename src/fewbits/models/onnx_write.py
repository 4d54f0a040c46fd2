"""onnx-ir models as artefacts: in one piece where that is possible, otherwise with their weights in the annex."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
import onnx_ir as ir

from fewbits.models.onnx_annex import SMALL, Annex, annex_of
from fewbits.models.onnx_outside import check_structure, external_tensors, is_plain, piece_of, place
from fewbits.models.onnx_pieces import DATA
from fewbits.models.protocol import Artifact


def written(
    model: ir.Model,
    annex: Annex,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    also: Iterable[onnx.ValueInfoProto] = (),
    *,
    checked: bool = False,
) -> Artifact:
    """`model` as an artefact, whose weights lie in `annex` if those of `model` do, or if they are too large for one
    piece. `outputs` describes what it gives, where that is not to be what `model` says; `also` what it gives besides.
    `checked`: by ONNX's own checks.

    Raises:
        StorageError: there is no place for the weights.
    """
    weights = [value for graph in model.graphs() for value in graph.initializers.values()]
    outside = annex_of(model) is not None or annex.holds(
        sum(value.const_value.nbytes for value in weights if value.const_value is not None)
    )
    if outside:
        for value in weights:
            tensor = value.const_value
            if tensor is not None and not isinstance(tensor, ir.ExternalTensor) and _is_large(tensor):
                value.const_value = annex.add(tensor)
    proto = ir.to_proto(model)
    if outputs is not None:
        del proto.graph.output[:]
        proto.graph.output.extend(outputs)
    proto.graph.output.extend(also)
    size = relocate(proto, annex) if outside else 0
    content: bytes = proto.SerializeToString()
    if checked and not is_plain(proto):
        check_structure(proto)
        checked = False
    # Before the check, so that there are never more than two copies of the weights.
    del proto
    if checked:
        onnx.checker.check_model(content)
    if not outside:
        return Artifact(content)
    return Artifact(content, annex.store(content), size, keeps=annex)


def _is_large(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype is not ir.DataType.STRING and tensor.nbytes > SMALL


def relocate(proto: onnx.ModelProto, annex: Annex) -> int:
    """Let `proto`, whose tensors outside name their files by absolute paths, read all of them from `annex`; how many
    bytes they are there. Raises StorageError."""
    found: dict[int, int] = {}
    for tensor in external_tensors(proto):
        piece = piece_of(tensor)
        offset = annex.take(piece)
        place(tensor, DATA, offset, piece.length)
        found[offset] = piece.length
    return sum(found.values())
