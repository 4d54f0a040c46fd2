"""What would overflow in fp16, before it does: the largest magnitudes that were seen, group by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fewbits.data.batches import Batch
from fewbits.formats.floating import FP16
from fewbits.graph import Tensor
from fewbits.grouping import Group
from fewbits.models.protocol import Model


def beyond(model: Model, groups: Iterable[Group], batches: Iterable[Batch]) -> Mapping[str, str]:
    """Why groups and nodes of `model` cannot be in fp16, by name: what they read or give was, on `batches`, larger than
    fp16 holds. Masks that stand for infinity are cut, so they do not count."""
    graph = model.graph
    floats = [
        name
        for node in graph.nodes
        for name in node.outputs
        if name
        and graph.tensors[name].dtype == "float32"
        and graph.tensors[name].finite
        and not graph.is_constant(name)
    ]
    largest: dict[str, float] = {}
    for values in model.observe(batches, tuple(dict.fromkeys(floats))):
        for name, array in values.items():
            finite = array[np.isfinite(array)]
            largest[name] = max(largest.get(name, 0.0), float(np.abs(finite).max(initial=0)))
    over = {name: most for name, most in largest.items() if most > FP16.max}
    found: dict[str, str] = {}
    inside: set[str] = set()
    for made in groups:
        inside.update(made.nodes)
        given = {name for node in made.nodes for name in graph.node[node].outputs}
        worst = max((over[name] for name in {*made.operands, *given} if name in over), default=0.0)
        if worst:
            found[made.name] = f"it works on {worst:.3g}, beyond what fp16 holds ({FP16.max:g})"
    for node in graph.nodes:
        if node.name not in inside and any(name in over for name in (*node.inputs, *node.outputs)):
            found[node.name] = "it works on more than fp16 holds"
    return found


def _is_ranged(tensor: Tensor) -> bool:
    return tensor.dtype == "float32" and tensor.finite and not tensor.constant
