"""The values that inner tensors take: the original model run with them as extra outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnxruntime

from fewbits.data.batches import Arrays, Batch


def observe(proto: onnx.ModelProto, batches: Iterable[Batch], tensors: Sequence[str]) -> Iterator[Arrays]:
    """One mapping of `tensors` to values per batch; nothing is kept between batches.

    Graph inputs are passed through from the batch. `proto` is changed: it belongs to this call.
    """
    given = {value.name for value in proto.graph.input}
    known = {value.name for value in proto.graph.output}
    wanted = [name for name in tensors if name not in given]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for batch in batches:
        values = session.run(wanted, dict(batch.inputs)) if wanted else []
        inputs = {name: batch.inputs[name] for name in tensors if name in given}
        yield {**inputs, **dict(zip(wanted, values, strict=True))}
