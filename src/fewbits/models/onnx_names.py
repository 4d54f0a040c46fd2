"""New values in an onnx-ir model, with names that nothing else has; large ones go where the model keeps its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from fewbits.data.batches import Array
from fewbits.models.onnx_annex import SMALL, annex_of
from fewbits.models.onnx_pieces import array


class Names:
    """The names that are taken in a model; whatever is made through it takes another one."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._annex = annex_of(model)
        self._values: set[str] = set()
        self._nodes: set[str] = set()
        self._counts: dict[str, int] = {}
        for graph in model.graphs():
            self._values.update(value.name for value in (*graph.inputs, *graph.initializers.values()) if value.name)
            for node in graph:
                self._nodes.add(node.name or "")
                self._values.update(value.name for value in node.outputs if value.name)

    def constant(self, wanted: str, values: Array) -> ir.Value:
        """A new initialiser that holds `values`; its name is `wanted` or close to it."""
        name = self._fresh(wanted, self._values)
        tensor: ir.TensorProtocol = ir.tensor(np.asarray(values, order="C"), name=name)
        if self._annex is not None and tensor.nbytes > SMALL:
            tensor = self._annex.add(tensor)
        value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._model.graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        name: str,
        attributes: Mapping[str, int | ir.Attr] | None = None,
    ) -> ir.Node:
        """A new node with one output, not yet in the graph; its names are the given ones or close to them."""
        made = ir.node(
            op_type, list(inputs), dict(attributes or {}), name=self._fresh(name, self._nodes), num_outputs=1
        )
        made.outputs[0].name = self._fresh(output, self._values)
        return made

    def _fresh(self, wanted: str, taken: set[str]) -> str:
        name = wanted
        while name in taken:
            # Counting on from the last number keeps many values of one name linear.
            self._counts[wanted] = self._counts.get(wanted, 0) + 1
            name = f"{wanted}_{self._counts[wanted]}"
        taken.add(name)
        return name


def insert_after(model: ir.Model, value: ir.Value, *nodes: ir.Node) -> None:
    """Put `nodes` right behind what makes `value`, or first if nothing does."""
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, nodes)
    else:
        model.graph.insert_before(model.graph[0], nodes)


def array_of(value: ir.Value | None) -> Array:
    """The constant that `value` is. Raises ValueError if it is none."""
    if value is None or value.const_value is None:
        raise ValueError(f"{'nothing' if value is None else value.name} is not a constant")
    return array(value.const_value)


def take_over(old: ir.Value, new: ir.Value) -> None:
    """`new` replaces `old` everywhere, graph outputs included, and gets its name, type and shape."""
    name = old.name
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name = f"{name}.replaced"
    new.name = name
