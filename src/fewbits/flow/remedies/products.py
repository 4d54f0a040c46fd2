"""The operands of a product as matrices, from what it reads on some samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fewbits.data.batches import Array, Arrays
from fewbits.graph import Kind, Node
from fewbits.grouping import Group, channels_last
from fewbits.models.protocol import Model
from fewbits.refine.layer import as_matrices, linear_inputs, patches

_ROWS: Final = 2048
_HEADS: Final = 32
_IMAGE_RANK: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """`inputs` (groups, samples, features) and `weight` (groups, outputs, features); the features of a group are
    `channels`, each with all taps of a kernel one after the other. Some samples and heads stand for all."""

    inputs: Array
    weight: Array
    channels: int

    @property
    def by_taps(self) -> tuple[Array, Array]:
        """Both with neighbouring channels beside each other, tap by tap: the order in which kernels sum them."""
        inputs, weight = (
            one.reshape(*one.shape[:-1], self.channels, -1).swapaxes(-1, -2).reshape(one.shape)
            for one in (self.inputs, self.weight)
        )
        return inputs, weight


def as_product(model: Model, group: Group, values: Arrays) -> Product:
    """The product `group`, no transposed convolution; `values` has its operands."""
    node = model.graph.node[group.name]
    if not group.weight:
        first, second = (model.weight(name) if name == group.constant else values[name] for name in node.inputs[:2])
        return _of_two(first, second)
    first = values[group.operands[0]]
    if not channels_last(model.graph, group):
        first = first.T
    weight = model.weight(group.weight)
    if group.kind is not Kind.CONV:
        rows = weight if node.attributes.get("transB", 0) else np.moveaxis(weight, -1, 0)
        return Product(linear_inputs(first)[:, :_ROWS], as_matrices(rows), rows.shape[-1])
    (groups,) = _numbers((node.attributes.get("group", 1),))
    inputs = patches(
        first,
        weight.shape[2:],
        strides=_numbers(node.attributes.get("strides", ())),
        pads=_pads(node, first.shape[2:], weight.shape[2:]),
        dilations=_numbers(node.attributes.get("dilations", ())),
        groups=groups,
    )
    return Product(inputs[:, :: max(1, inputs.shape[1] // _ROWS)], as_matrices(weight, groups), weight.shape[1])


def as_identity(values: Array) -> Product:
    """`values` as what an operation reads that only passes them on: channels along the second axis of images, along the
    last one of anything else."""
    apart = np.moveaxis(values, 1, -1) if values.ndim == _IMAGE_RANK else values
    rows = apart.reshape(1, -1, apart.shape[-1])
    return Product(rows[:, :: max(1, rows.shape[1] // _ROWS)], np.eye(rows.shape[-1])[None], rows.shape[-1])


def _of_two(first: Array, second: Array) -> Product:
    shape = np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    left, right = (
        np.broadcast_to(one, (*shape, *one.shape[-2:])).reshape(-1, *one.shape[-2:])[:_HEADS] for one in (first, second)
    )
    return Product(left, right.transpose(0, 2, 1), left.shape[-1])


def _pads(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """The pads of a convolution, begins and then ends; those of ``auto_pad`` as the operator defines them."""
    mode = str(node.attributes.get("auto_pad", "NOTSET"))
    if not mode.startswith("SAME"):
        return _numbers(node.attributes.get("pads", ()))
    strides = _numbers(node.attributes.get("strides", ())) or (1,) * len(kernel)
    dilations = _numbers(node.attributes.get("dilations", ())) or (1,) * len(kernel)
    whole = [
        max(0, (-(-size // stride) - 1) * stride + (taps - 1) * step + 1 - size)
        for size, taps, stride, step in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [pad // 2 for pad in whole], [pad - pad // 2 for pad in whole]
    return (*less, *more) if mode == "SAME_UPPER" else (*more, *less)


def _numbers(value: object) -> tuple[int, ...]:
    """An attribute that is a list of whole numbers."""
    assert isinstance(value, tuple)
    assert all(isinstance(one, int) for one in value)
    return value
