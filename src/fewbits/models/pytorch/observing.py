"""The values that inner tensors take: the program run call by call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import fx

from fewbits.data.batches import Array, Arrays, Batch
from fewbits.errors import DataError, ModelError
from fewbits.models.pytorch.converted import array_of
from fewbits.models.pytorch.graph import Described
from fewbits.models.pytorch.program import Program


def observe(
    program: Program, described: Described, batches: Iterable[Batch], tensors: Sequence[str]
) -> Iterator[Arrays]:
    """One mapping of `tensors` to values per batch; nothing is kept between batches.

    Raises:
        ModelError: `tensors` names a constant or what the model does not have.
        DataError: the model does not run on a batch.
    """
    graph = described.graph
    constant = [name for name in tensors if graph.is_constant(name)]
    if constant:
        raise ModelError(f"{constant[0]} is a constant, the same for every sample; observe tensors that depend on data")
    unknown = [name for name in tensors if name not in described.values]
    if unknown:
        raise ModelError(f"the model has no tensor {unknown[0]}; observe its inputs or what its nodes give")
    wanted = {described.values[name]: name for name in tensors}
    return _run(program, batches, wanted)


def _run(program: Program, batches: Iterable[Batch], wanted: Mapping[fx.Node, str]) -> Iterator[Arrays]:
    for batch in batches:
        yield _Observer(program, wanted).values(batch.inputs)


class _Observer(fx.Interpreter):
    """Keeps the values of `wanted`; frees all others when nobody reads them any more."""

    def __init__(self, program: Program, wanted: Mapping[fx.Node, str]) -> None:
        super().__init__(program.module)
        self._program = program
        self._wanted = wanted
        self._found: dict[str, Array] = {}

    def values(self, inputs: Arrays) -> Arrays:
        """The wanted values on `inputs`."""
        given = tensors_of(self._program, inputs)
        with torch.no_grad():
            try:
                self.run(*given)
            except (RuntimeError, IndexError, ValueError) as error:
                shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
                raise DataError(f"the model does not run on {shapes}: {error}") from error
        return self._found

    def run_node(self, n: fx.Node) -> object:
        """Run one call and keep what it gives, if that is wanted."""
        value = super().run_node(n)
        if n in self._wanted:
            # Copied: what comes later may be computed in the same memory.
            self._found[self._wanted[n]] = array_of(value[0] if isinstance(value, tuple) else value).copy()
        return value


def tensors_of(program: Program, inputs: Arrays) -> list[torch.Tensor]:
    """`inputs` by name as the flat tensors of a call, on the device of the program. Raises DataError."""
    names = [str(node.target) for node in program.inputs]
    missing = [name for name in names if name not in inputs]
    if missing:
        raise DataError(f"the input {missing[0]} is missing; the model reads {', '.join(names)}")
    device = device_of(program)
    return [torch.from_numpy(np.ascontiguousarray(inputs[name])).to(device) for name in names]


def device_of(program: Program) -> torch.device:
    """Where the weights are; the CPU where there are none."""
    tensors = (*program.module.parameters(), *program.module.buffers())
    return tensors[0].device if tensors else torch.device("cpu")
