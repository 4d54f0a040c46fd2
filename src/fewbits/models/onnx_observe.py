"""The values that inner tensors take: the original model run with them as extra outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnx_ir as ir
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from fewbits.data.batches import Array, Arrays, Batch
from fewbits.errors import DataError, ModelError
from fewbits.graph import Graph
from fewbits.models.onnx_annex import Annex
from fewbits.models.onnx_write import written

_ERRORS_ONLY = 3
_REFUSED = (states.Fail, states.InvalidArgument, states.NotImplemented, states.RuntimeException, ValueError)


def observe(
    model: ir.Model, annex: Annex, graph: Graph, batches: Iterable[Batch], tensors: Sequence[str]
) -> Iterator[Arrays]:
    """One mapping of `tensors` to values per batch; nothing is kept between batches.

    Graph inputs are passed through from the batch. A large model is loaded from a file in `annex`.

    Raises:
        ModelError: `tensors` names a constant or what the model does not have, or the runtime does not load it.
        DataError: the model does not run on a batch.
    """
    _check_names(graph, tensors)
    wanted = [name for name in dict.fromkeys(tensors) if name not in graph.inputs]
    return _run(model, annex, graph, batches, tensors, wanted)


def _run(
    model: ir.Model,
    annex: Annex,
    graph: Graph,
    batches: Iterable[Batch],
    tensors: Sequence[str],
    wanted: list[str],
) -> Iterator[Arrays]:
    session = _session(model, annex, graph, wanted)
    for batch in batches:
        found = {name: batch.inputs[name] for name in tensors if name in graph.inputs} | _values(session, batch, wanted)
        # While the next batch is made, this one and its values need not be held.
        del batch
        yield found
        del found


def _values(session: onnxruntime.InferenceSession, batch: Batch, wanted: Sequence[str]) -> dict[str, Array]:
    if not wanted:
        return {}
    try:
        return dict(zip(wanted, session.run(wanted, dict(batch.inputs)), strict=True))
    except _REFUSED as error:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in batch.inputs.items())
        raise DataError(f"the model does not run on {shapes}: {error}") from error


def _session(model: ir.Model, annex: Annex, graph: Graph, wanted: Sequence[str]) -> onnxruntime.InferenceSession:
    inner = [onnx.ValueInfoProto(name=name) for name in wanted if name not in graph.outputs]
    made = written(model, annex, also=inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(
            str(made.path) if made.path else made.content, options, providers=["CPUExecutionProvider"]
        )
    except (*_REFUSED, states.InvalidGraph) as error:
        raise ModelError(f"ONNX Runtime {onnxruntime.__version__} does not load the model: {error}") from error


def _check_names(graph: Graph, tensors: Sequence[str]) -> None:
    constant = [name for name in tensors if graph.is_constant(name)]
    if constant:
        raise ModelError(f"{constant[0]} is a constant, the same for every sample; observe tensors that depend on data")
    made = {*graph.inputs, *graph.producer}
    unknown = [name for name in tensors if name not in made]
    if unknown:
        raise ModelError(f"the model has no tensor {unknown[0]}; observe its inputs or what its nodes give")
