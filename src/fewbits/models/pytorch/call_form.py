"""How a module is called, and what it gives: between a user's arguments and the flat tensors of its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass

import torch
from torch.utils import _pytree as pytree

from fewbits.errors import DataError

Arguments = Mapping[str, object]
"""Arguments of ``forward`` by the names of its parameters."""


@dataclass(frozen=True)
class CallForm:
    """`parameters` names what ``forward`` takes, with `defaults` for some. `inputs` has those arguments that the model
    was exported with, with a number from 0 in the place of every leaf; `tensors` are the numbers of those that are
    tensors, `fixed` what stands in the other places. `outputs` is what is given back, numbered in the same way;
    `constants` are those of its leaves that are no tensors, and the same at every call."""

    parameters: tuple[str, ...]
    defaults: Mapping[str, object]
    inputs: Mapping[str, object]
    tensors: tuple[int, ...]
    fixed: Mapping[int, object]
    outputs: object
    constants: Mapping[int, object] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every tensor that is given back, in order."""
        every = output_names(self.outputs)
        return tuple(name for place, name in enumerate(every) if place not in self.constants)

    @property
    def given(self) -> tuple[str, ...]:
        """The arguments that the model was exported with."""
        return tuple(self.inputs)

    def flat(self, args: Sequence[object], kwargs: Arguments) -> list[torch.Tensor]:
        """The tensors among the arguments, in the order of the graph's inputs. Raises DataError."""
        arguments = bound(self.parameters, args, kwargs)
        missing = [name for name in self.given if name not in arguments]
        extra = [
            name for name, value in arguments.items() if name not in self.given and not self._is_default(name, value)
        ]
        if missing or extra:
            raise DataError(
                f"the model was exported with the arguments {', '.join(self.given)}; "
                + "; ".join(
                    f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("new", extra)) if names
                )
                + ". Convert it with an example that has the arguments that you call it with"
            )
        values, structure = pytree.tree_flatten({name: arguments[name] for name in self.given})
        if structure != pytree.tree_flatten(self.inputs)[1]:
            raise DataError(f"the model was exported with arguments of the form {self.inputs}, not {structure}")
        for place, value in self.fixed.items():
            if values[place] is not value and values[place] != value:
                raise DataError(
                    f"an argument that is no tensor was {value!r} when the model was exported, and is part of its "
                    f"graph since; it cannot be {values[place]!r} now"
                )
        return [_tensor(values[place]) for place in self.tensors]

    def structured(self, outputs: Sequence[torch.Tensor]) -> object:
        """What the module gives, from the flat outputs of the graph."""
        found = iter(outputs)
        count = len(outputs) + len(self.constants)
        values = {place: self.constants[place] if place in self.constants else next(found) for place in range(count)}
        return _rebuilt(self.outputs, lambda place: values[place] if isinstance(place, int) else place)

    def _is_default(self, name: str, value: object) -> bool:
        return name in self.defaults and (value is self.defaults[name] or value is None)


def bound(parameters: Sequence[str], args: Sequence[object], kwargs: Arguments) -> dict[str, object]:
    """The arguments of a call by name. Raises DataError."""
    if len(args) > len(parameters):
        raise DataError(f"the model takes {', '.join(parameters)}, but {len(args)} arguments are given")
    named = dict(zip(parameters, args, strict=False))
    twice = sorted(named.keys() & kwargs.keys())
    unknown = sorted(kwargs.keys() - set(parameters))
    if twice or unknown:
        what = f"{twice[0]} is given twice" if twice else f"there is no argument {unknown[0]}"
        raise DataError(f"{what}; the model takes {', '.join(parameters)}")
    return {**named, **kwargs}


def numbered(structure: pytree.TreeSpec) -> object:
    """Something of `structure` with its leaves numbered: unlike a structure, it can be copied and stored."""
    found: object = pytree.tree_unflatten(list(range(structure.num_leaves)), structure)
    return found


def open_dataclasses(value: object) -> object:
    """`value` with dataclasses as mappings from field to value, which ``torch.export`` can see into."""

    def opened(leaf: object) -> object:
        return {name: open_dataclasses(inner) for name, inner in _fields(leaf)} if is_holder(leaf) else leaf

    found: object = pytree.tree_map(opened, value, is_leaf=is_holder)
    return found


def closed_dataclasses(value: object, like: object) -> object:
    """`value`, which `open_dataclasses` gave for something of the form of `like`, with its dataclasses again."""
    leaves = iter(pytree.tree_leaves(value))
    return _rebuilt(like, lambda _: next(leaves))


def without_leaves(value: object) -> object:
    """The form of `value`, which holds no tensor."""
    return _rebuilt(value, lambda _: 0)


def is_holder(value: object) -> bool:
    """Whether `value` is a dataclass that pytree does not know."""
    return is_dataclass(value) and not isinstance(value, type) and type(value) not in pytree.SUPPORTED_NODES


def _fields(value: object) -> list[tuple[str, object]]:
    assert is_dataclass(value)
    own = vars(value)
    return [(one.name, own[one.name]) for one in fields(value) if one.name in own]


def _rebuilt(value: object, leaf: Callable[[object], object]) -> object:
    """`value` with every leaf as `leaf` gives it."""

    def made(inner: object) -> object:
        if not is_holder(inner):
            return leaf(inner)
        # Not through its constructor, which may look at what it is given; a frozen one cannot be set otherwise.
        found = copy(inner)
        for name, part in _fields(inner):
            object.__setattr__(found, name, _rebuilt(part, leaf))
        return found

    result: object = pytree.tree_map(made, value, is_leaf=is_holder)
    return result


def output_names(outputs: object) -> tuple[str, ...]:
    """A name for each leaf of `outputs`: its field, or its key, or its place."""
    paths, _ = pytree.tree_flatten_with_path(open_dataclasses(outputs))
    names = ["_".join(_key(key) for key in path) or "output" for path, _ in paths]
    return tuple(f"output_{name}" if name[:1].isdigit() else name for name in names)


def _key(key: object) -> str:
    match key:
        case pytree.MappingKey(key=name):
            return str(name)
        case pytree.SequenceKey(idx=place):
            return str(place)
        case pytree.GetAttrKey(name=name):
            return str(name)
        case _:
            return str(key).strip("[].'\"")


def _tensor(value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise DataError(f"a tensor was expected, not {type(value).__name__}")
    return value
