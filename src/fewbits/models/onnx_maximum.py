"""A quantiser behind a maximum over an axis, kept apart from it.

OpenVINO (2026.4) fuses a quantiser right behind ReduceMax or GlobalMaxPool with it, and one behind a Concat of such,
which it moves there. Where it moves the scale on, through a Squeeze or a Concat, it forgets it: values come out rounded
to whole numbers. With the quantiser's own upper limit between the two, which changes no code, it computes them right.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from fewbits.models.onnx_names import Names, array_of

_MAXIMA: Final = ("ReduceMax", "GlobalMaxPool")


class LimitMaxima(ir.passes.InPlacePass):
    """Puts a Min between every maximum over an axis and the quantiser that reads it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether a quantiser reads a maximum."""
        names = Names(model)
        modified = False
        for node in list(model.graph):
            source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
            if source is None or not _is_maximum(source):
                continue
            scale, zero_point = array_of(node.inputs[1]), array_of(node.inputs[2])
            highest = (np.iinfo(zero_point.dtype).max - zero_point.astype(np.float32)) * scale
            limit = names.constant(f"{source.name}.highest", np.asarray(highest, np.float32))
            limited = names.node("Min", [source, limit], f"{source.name}.limited", f"{source.name}.limit")
            limited.outputs[0].shape, limited.outputs[0].type = source.shape, source.type
            model.graph.insert_before(node, limited)
            node.replace_input_with(0, limited.outputs[0])
            modified = True
        return ir.passes.PassResult(model, modified)


def _is_maximum(value: ir.Value | None) -> bool:
    """Whether `value` is a maximum over an axis, or has such side by side."""
    producer = value.producer() if value is not None else None
    if producer is None:
        return False
    return producer.op_type in _MAXIMA or (producer.op_type == "Concat" and any(map(_is_maximum, producer.inputs)))
