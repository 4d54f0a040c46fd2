"""Integers of any width emulated in float32, for hardware that is not at hand.

What a product reads passes Div, Round, Clip and Mul, which give exactly the values that codes of the format stand for
(ties to even, ``fewbits.formats``; -0 may stand where those have 0); weights are stored as such values. Every product
rounds what it reads to its own format; its sums, its bias and all that is no product stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fewbits.errors import PlanError
from fewbits.formats.granularity import Channel, Tensor
from fewbits.formats.integer import IntFormat
from fewbits.formats.numerics.affine import Affine, of_range, symmetric
from fewbits.formats.quantize import fake_quantize
from fewbits.formats.scaled import ScaledFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.grouping import Group
from fewbits.models.onnx_names import Names, array_of, insert_after
from fewbits.models.onnx_quantize import affine_of
from fewbits.models.onnx_weights import output_axis
from fewbits.models.weight_codes import weight_codes
from fewbits.placement import formats

_SHRINKS: Final = np.linspace(1.0, 0.25, 16, dtype=np.float32)
_WIDE: Final = 8

Float = NDArray[np.float32]


class EmulateRounding(ir.passes.InPlacePass):
    """Rounds the operands of the products that `schemes` names. `ranges` gives the range of each activation that they
    read."""

    def __init__(
        self, groups: Mapping[str, Group], schemes: Mapping[str, Scheme], ranges: Mapping[str, tuple[float, float]]
    ) -> None:
        super().__init__()
        self._groups = groups
        self._schemes = schemes
        self._ranges = ranges

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model`; the result says whether anything is rounded.

        Raises:
            PlanError: a scheme that is not emulated, or a range that is missing.
        """
        names = Names(model)
        nodes = {str(node.name): node for node in model.graph}
        rounded: dict[tuple[ir.Value, IntFormat], ir.Value] = {}
        for name, scheme in self._schemes.items():
            group, node = self._groups[name], nodes[name]
            if not (scheme.is_static and group.is_product):
                raise PlanError(
                    f"the plan has {name} ({group.kind}) in {scheme}; emulated are products with static integers, for "
                    "example w:int4r/channel a:uint4/tensor. Set it to fp32"
                )
            if group.weight and isinstance(scheme.weight, ScaledFormat):
                stored = rounded_weight(array_of(node.inputs[1]).astype(np.float32), scheme.weight, output_axis(node))
                node.replace_input_with(1, names.constant(f"{name}.weight.rounded", stored))
            for index, format in enumerate(formats(scheme)):
                source = node.inputs[index]
                if source is not None and source.name == group.constant:
                    stored = rounded_operand(array_of(source).astype(np.float32), format)
                    node.replace_input_with(index, names.constant(f"{name}.constant.rounded", stored))
                    continue
                if source is None or source.const_value is not None:
                    continue
                if (source, format) not in rounded:
                    affine = affine_of(str(source.name), format, self._ranges)
                    rounded[source, format] = _rounded(model, names, source, affine)
                node.replace_input_with(index, rounded[source, format])
        return ir.passes.PassResult(model, bool(self._schemes))


def rounded_weight(weight: Float, operand: ScaledFormat, axis: int) -> Float:
    """`weight` as the values that its codes in `operand` stand for, with scales along `axis` (of output channels)
    where `operand` has one per channel.

    8 bits and more reach to the largest magnitude, as in what a runtime is given. Fewer take, of some scales up to
    that, the one with the least squared error (Nagel et al., arXiv 2106.08295, section 3.1): at 2 bits, the largest
    magnitude alone would leave little but zeros.
    """
    element = integer(operand)
    per_channel = operand.granularity != Tensor()
    others = tuple(place for place in range(weight.ndim) if place != axis or not per_channel)
    absmax = np.abs(weight).max(axis=others, initial=0, keepdims=True)
    format = ScaledFormat(element, Channel(axis) if per_channel else Tensor())
    best, least = np.zeros_like(weight), np.full(absmax.shape, np.inf, np.float32)
    for shrink in _SHRINKS if element.bits < _WIDE else _SHRINKS[:1]:
        tried = fake_quantize(weight, format, scale=symmetric(absmax * shrink, element).scale)
        error = np.square(tried - weight).sum(axis=others, keepdims=True)
        better = error < least
        best, least = np.where(better, tried, best), np.where(better, error, least)
    return np.asarray(best)


def rounded_operand(values: Float, format: IntFormat) -> Float:
    """`values`, a constant that is no weight, as what its codes in `format` stand for, with one scale as an activation
    has."""
    affine = of_range(float(values.min(initial=0)), float(values.max(initial=0)), format)
    codes = weight_codes(values, affine).astype(np.float32)
    return np.asarray((codes - affine.zero_point.astype(np.float32)) * affine.scale, np.float32)


def _rounded(model: ir.Model, names: Names, value: ir.Value, affine: Affine) -> ir.Value:
    prefix = f"{value.name}.{affine.format}"
    zero = int(affine.zero_point)
    scale = names.constant(f"{prefix}.scale", affine.scale)
    low, high = (
        names.constant(f"{prefix}.{end}", np.array(code - zero, np.float32))
        for end, code in (("lowest", affine.format.qmin), ("highest", affine.format.qmax))
    )
    chain: list[ir.Node] = []
    last = value
    for op_type, more, what in (
        ("Div", [scale], "scaled"),
        ("Round", [], "whole"),
        ("Clip", [low, high], "clipped"),
        ("Mul", [scale], "rounded"),
    ):
        chain.append(names.node(op_type, [last, *more], f"{prefix}.{what}", f"{prefix}.{op_type.lower()}"))
        last = chain[-1].outputs[0]
        last.shape, last.type = value.shape, value.type
    insert_after(model, value, *chain)
    return last
