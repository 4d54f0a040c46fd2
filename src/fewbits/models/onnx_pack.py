"""An artefact as it is saved: the model's file, and beside it one file with those weights that are not in it."""

from __future__ import annotations

from dataclasses import replace

import onnx

from fewbits.errors import ModelError
from fewbits.models.onnx_outside import external_tensors, piece_of, place
from fewbits.models.onnx_pieces import chunks, layout
from fewbits.models.protocol import Artifact, Packed


def packed(artifact: Artifact, location: str) -> Packed:
    """`artifact` with its weights outside, each once and one behind the other, in a file called `location`."""
    if artifact.path is None:
        return Packed(artifact.content)
    proto = onnx.load_model_from_string(artifact.content)
    folder = artifact.path.resolve().parent
    tensors = list(external_tensors(proto))
    pieces = [piece_of(one) for one in tensors]
    distinct = list(dict.fromkeys(pieces))
    offsets, size = layout([piece.length for piece in distinct])
    places = dict(zip(distinct, offsets, strict=True))
    for tensor, piece in zip(tensors, pieces, strict=True):
        place(tensor, location, places[piece], piece.length)
    found = [replace(piece, file=folder / piece.file) for piece in distinct]
    return Packed(proto.SerializeToString(), size, lambda: chunks(found, apart=True))


def whole(artifact: Artifact) -> onnx.ModelProto:
    """`artifact` with its weights in it. Raises ModelError if they are not where they were."""
    proto = onnx.load_model_from_string(artifact.content)
    if artifact.path is not None:
        try:
            onnx.load_external_data_for_model(proto, str(artifact.path.parent))
        except OSError as error:
            raise ModelError(
                f"weights of the model at {artifact.path} cannot be read: {error.strerror or error}"
            ) from error
    return proto
