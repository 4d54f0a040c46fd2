"""How a module is called, and what it gives: between a user's arguments and the flat tensors of its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils import _pytree as pytree

from fewbits.errors import DataError

Arguments = Mapping[str, object]
"""Arguments of ``forward`` by the names of its parameters."""


@dataclass(frozen=True)
class CallForm:
    """`parameters` names what ``forward`` takes, with `defaults` for some. `inputs` has those arguments that the model
    was exported with, with a number from 0 in the place of every leaf; `tensors` are the numbers of those that are
    tensors, `fixed` what stands in the other places. `outputs` is what is given back, numbered in the same way."""

    parameters: tuple[str, ...]
    defaults: Mapping[str, object]
    inputs: Mapping[str, object]
    tensors: tuple[int, ...]
    fixed: Mapping[int, object]
    outputs: object

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
        found: object = pytree.tree_unflatten(list(outputs), pytree.tree_flatten(self.outputs)[1])
        return found

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


def output_names(outputs: object) -> tuple[str, ...]:
    """A name for each leaf of `outputs`: its field, or its key, or its place."""
    paths, _ = pytree.tree_flatten_with_path(outputs)
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
