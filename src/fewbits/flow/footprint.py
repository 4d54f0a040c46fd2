"""Predicted bytes of a running model: its weights as stored, and the activations that are alive at the worst moment.

What a runtime does with them (packed copies of weights, a file that is still in memory while it is read) is not known
here: measured memory decides, this only says which plans to try.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fewbits.costs.liveness import live_steps
from fewbits.formats.describe import bits_per_element
from fewbits.formats.scheme import Scheme
from fewbits.graph import Graph, Tensor
from fewbits.grouping import Group
from fewbits.search.allocation import Peak, Step

_FLOAT: Final = 4
"""Bytes of a number that no scheme makes smaller."""

Bytes = Mapping[str, Mapping[str, float]]
"""Group → the text of a scheme that it may have → bytes."""


def footprint(name: str, graph: Graph, groups: Sequence[Group], weights: Bytes, samples: int) -> Peak:
    """A resource called `name`: the `weights` of the chosen schemes, and the activations of `samples` in one call.

    The groups of `weights` give their output in codes where the scheme has static ones, in 16 bits where it is a cast;
    everything else is float32. Tensors of unknown shape count nothing, dynamic dimensions but the samples 1.
    """
    givers = {group.output: group.name for group in groups if group.name in weights}
    moments = [_moment(graph, alive, givers, samples) for _, alive in live_steps(graph, groups)]
    each = {group: {option: _each(Scheme.parse(option)) for option in options} for group, options in weights.items()}
    return Peak(name, [_step(moment, weights, each) for moment in _worst(moments, each)])


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is alive in one step: bytes whatever is chosen, and elements by the group that gives them."""

    fixed: float
    given: Mapping[str, int]


def _moment(graph: Graph, alive: Iterable[str], givers: Mapping[str, str], samples: int) -> _Moment:
    fixed, given = 0.0, dict[str, int]()
    for name in alive:
        elements = _elements(graph.tensors.get(name), samples)
        if name in givers:
            given[givers[name]] = elements
        else:
            fixed += elements * _FLOAT
    return _Moment(fixed, given)


def _elements(tensor: Tensor | None, samples: int) -> int:
    if tensor is None or not tensor.shape:
        return 0
    return tensor.elements * (1 if isinstance(tensor.shape[0], int) else samples)


def _each(scheme: Scheme) -> float:
    """Bytes of one element that a group in `scheme` gives."""
    if scheme.activation is None or not (scheme.is_static or scheme.is_cast):
        return _FLOAT
    return bits_per_element(scheme.activation) / 8


def _worst(moments: Sequence[_Moment], each: Bytes) -> list[_Moment]:
    """Without the moments that need less than another whatever is chosen: most of them, as maps shrink on their way
    through a model."""

    def needed(moment: _Moment, extreme: Mapping[str, float]) -> float:
        return moment.fixed + sum(elements * extreme[name] for name, elements in moment.given.items())

    least = {name: min(options.values()) for name, options in each.items()}
    most = {name: max(options.values()) for name, options in each.items()}
    certain = max(needed(moment, least) for moment in moments)
    return [moment for moment in moments if needed(moment, most) >= certain]


def _step(moment: _Moment, weights: Bytes, each: Bytes) -> Step:
    return Step(
        {
            name: {option: size + moment.given.get(name, 0) * each[name][option] for option, size in options.items()}
            for name, options in weights.items()
        },
        moment.fixed,
    )
