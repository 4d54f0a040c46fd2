"""A configuration held against a graph: what becomes small, what stays, why, and which of the user's words say nothing.

The lists are those of MXNet's ``amp.convert_model``: operators of the target type, of float32, of float32 under a
condition, and names to leave out; rules by regular expression come first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fewbits.config import MixedPrecisionConfig
from fewbits.formats.scheme import FP32, Scheme
from fewbits.graph import Graph, Kind, Node
from fewbits.grouping import Group
from fewbits.plan import Choice

_BY_DEFAULT = "it can"


@dataclass(frozen=True, slots=True)
class Decided:
    """`choices` by group; `kept` names nodes outside of groups that stay in float32; `unmatched` are the user's words
    that match nothing."""

    choices: Mapping[str, Choice]
    kept: tuple[str, ...]
    unmatched: tuple[str, ...]

    @property
    def low(self) -> tuple[str, ...]:
        """The groups that leave float32."""
        return tuple(name for name, choice in self.choices.items() if choice.scheme != str(FP32))


def decide(
    graph: Graph, groups: Sequence[Group], config: MixedPrecisionConfig, obstacle: Callable[[Group, Scheme], str]
) -> Decided:
    """What becomes of every group under `config`; `obstacle` says why one cannot have a scheme, "" if it can."""
    words = _Words(config)
    scheme = Scheme.parse(config.precision)
    choices = {}
    for made in groups:
        wanted, why = words.of(graph.node[made.name])
        reason = obstacle(made, scheme) if wanted != str(FP32) else ""
        choices[made.name] = Choice(str(FP32), reason) if reason else Choice(wanted, why)
    inside = {name for made in groups for name in made.nodes}
    others = [node for node in graph.nodes if node.name not in inside]
    kept = tuple(node.name for node in others if words.of(node)[0] == str(FP32) and words.of(node)[1] != _NOT_LISTED)
    return Decided(choices, kept, words.unmatched)


_NOT_LISTED = "its operator is not among target_ops"


def decide_layer(path: str, operator: str, config: MixedPrecisionConfig) -> Scheme:
    """What becomes under `config` of the layer at `path` in a module whose graph is not known; `operator` is what it is
    called, such as ``linear``."""
    return Scheme.parse(_Words(config).of(Node(path, Kind.OTHER, operator, (), ()))[0])


class _Words:
    """The user's rules and lists, which remember what they matched."""

    def __init__(self, config: MixedPrecisionConfig) -> None:
        self._config = config
        self._rules = {pattern: re.compile(pattern) for pattern in config.rules}
        self._matched: set[str] = set()

    def of(self, node: Node) -> tuple[str, str]:
        """The precision of `node`, and why."""
        config = self._config
        for pattern, compiled in self._rules.items():
            if compiled.fullmatch(node.name):
                return self._said(f"rule {pattern}", config.rules[pattern], f"the rule {pattern!r} says so")
        if node.name in config.excluded:
            return self._said(f"excluded {node.name}", "fp32", "it is excluded by name")
        for operator, attribute, values in config.conditional_ops:
            if _is(node, operator) and str(node.attributes.get(attribute, "")) in map(str, values):
                text = f"conditional_ops {operator} {attribute}"
                return self._said(text, "fp32", f"its {attribute} is {node.attributes[attribute]}")
        for operator in config.fp32_ops:
            if _is(node, operator):
                return self._said(f"fp32_ops {operator}", "fp32", f"{operator} is among fp32_ops")
        for operator in config.target_ops:
            if _is(node, operator):
                return self._said(f"target_ops {operator}", config.precision, f"{operator} is among target_ops")
        return ("fp32", _NOT_LISTED) if config.target_ops else (config.precision, _BY_DEFAULT)

    def _said(self, word: str, precision: str, why: str) -> tuple[str, str]:
        self._matched.add(word)
        return precision, why

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The words that decided nothing."""
        config = self._config
        every = [
            *(f"rule {pattern}" for pattern in config.rules),
            *(f"excluded {name}" for name in config.excluded),
            *(f"conditional_ops {operator} {attribute}" for operator, attribute, _ in config.conditional_ops),
            *(f"fp32_ops {operator}" for operator in config.fp32_ops),
            *(f"target_ops {operator}" for operator in config.target_ops),
        ]
        return tuple(word for word in every if word not in self._matched)


def _is(node: Node, operator: str) -> bool:
    return operator.lower() in (node.op.lower(), str(node.kind))
