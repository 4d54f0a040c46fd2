"""Shape tensors ``[leading dimensions of X..., columns]``, made once for all tensors that share the dimensions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fewbits.models.onnx_names import Names, insert_after

_Key = tuple[str | int, ...]


class LeadingShapes:
    """Computes shapes at run time where more than one dimension is dynamic; otherwise a constant does."""

    def __init__(self, model: ir.Model, names: Names) -> None:
        self._model = model
        self._names = names
        self._heads: dict[_Key | ir.Value, ir.Value] = {}
        self._shapes: dict[tuple[_Key | ir.Value, int], ir.Value] = {}
        # Some exporters call every dynamic dimension the same; a name that stands twice in one shape says nothing.
        symbols = [_symbols(value.shape) for value in model.graph.inputs]
        self._vague = {name for one in symbols for name in one if one.count(name) > 1}

    def shape(self, source: ir.Value, columns: int, before: ir.Node) -> ir.Value:
        """The shape of `source` with `columns` as its last dimension; `before` only lends its name."""
        assert source.shape is not None
        dims = list(source.shape)[:-1]
        unknown = [not isinstance(dim, int) for dim in dims]
        if sum(unknown) <= 1:
            static = [-1 if free else dim for dim, free in zip(dims, unknown, strict=True)]
            return self._names.constant(f"{before.name}.back_shape", np.array([*static, columns], np.int64))
        key = self._key(dims) or source
        if (key, columns) not in self._shapes:
            head = self._head(source, key)
            tail = self._names.constant(f"columns_{columns}", np.array([columns], np.int64))
            name = f"{head.name}.{columns}"
            concat = self._names.node("Concat", [head, tail], name, f"{head.name}.to_{columns}", {"axis": 0})
            insert_after(self._model, head, concat)
            self._shapes[key, columns] = concat.outputs[0]
        return self._shapes[key, columns]

    def _head(self, source: ir.Value, key: _Key | ir.Value) -> ir.Value:
        if key not in self._heads:
            assert source.shape is not None
            rank = len(source.shape) - 1
            inputs = (value for value in self._model.graph.inputs if value.shape is not None)
            # A graph input with the same leading dimensions has its shape sooner.
            origin = next((value for value in inputs if self._key(list(value.shape or ())[:rank]) == key), source)
            name = f"{origin.name}.leading"
            shape = self._names.node("Shape", [origin], f"{name}_all", f"{name}_to_all")
            starts = self._names.constant(f"{name}_from", np.array([0], np.int64))
            ends = self._names.constant(f"{name}_to", np.array([rank], np.int64))
            head = self._names.node("Slice", [shape.outputs[0], starts, ends], name, f"{name}_to")
            insert_after(self._model, origin, shape, head)
            self._heads[key] = head.outputs[0]
        return self._heads[key]

    def _key(self, dims: list[int | ir.SymbolicDim]) -> _Key | None:
        """What tensors of the same leading dimensions share; None if one of them cannot be told by its name."""
        key = tuple(dim if isinstance(dim, int) else (dim.value or "") for dim in dims)
        return None if any(name == "" or name in self._vague for name in key) else key


def _symbols(shape: ir.Shape | None) -> list[str]:
    dims = [] if shape is None else list(shape)
    return [dim.value for dim in dims if not isinstance(dim, int) and dim.value]
