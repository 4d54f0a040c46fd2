"""Hand-made graphs for tests: a few lines per structure, no framework."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from fewbits.formats.scheme import INT8_PAIR, INT8_STATIC, Scheme
from fewbits.graph import AttributeValue, Graph, Kind, Node, Tensor
from fewbits.grouping import Group

Shape = tuple[int | str, ...]
IMAGE: Shape = ("batch", 8, 4, 4)


def int8(group: Group) -> Scheme:
    """The int8 scheme for `group`: per channel where it has a weight."""
    return INT8_STATIC if group.weight else INT8_PAIR


@dataclass
class Sketch:
    """A graph in the making. `x` is its first input."""

    shape: Shape = IMAGE
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.input("x")

    def input(self, name: str, shape: Shape | None = None, dtype: str = "float32") -> str:
        """One more graph input."""
        self.tensors[name] = Tensor(name, dtype, self.shape if shape is None else shape)
        self.inputs.append(name)
        return name

    def constant(self, *shape: int, dtype: str = "float32") -> str:
        """A constant of `shape`."""
        name = f"constant_{len(self.tensors)}"
        self.tensors[name] = Tensor(name, dtype, shape, constant=True)
        return name

    def add(
        self,
        kind: Kind,
        *inputs: str,
        shape: Shape | None = None,
        outputs: int = 1,
        dtype: str = "float32",
        attributes: dict[str, AttributeValue] | None = None,
    ) -> str:
        """Append a node called after its kind and position; its first output's name."""
        name = f"{kind}_{len(self.nodes)}"
        names = tuple(f"{name}:{number}" for number in range(outputs))
        for output in names:
            self.tensors[output] = Tensor(output, dtype, self.shape if shape is None else shape)
        self.nodes.append(Node(name, kind, kind.title(), inputs, names, attributes or {}))
        return names[0]

    def conv(self, x: str) -> str:
        """A convolution with a constant weight."""
        return self.add(Kind.CONV, x, self.constant(8, 8, 3, 3))

    def norm(self, x: str) -> str:
        """Batch norm with constant statistics."""
        return self.add(Kind.BATCH_NORM, x, *(self.constant(8) for _ in range(4)))

    def matmul(self, x: str, *, columns: int = 6, shape: Shape = ("batch", 5, 6)) -> str:
        """A product with a constant matrix."""
        return self.add(Kind.MATMUL, x, self.constant(4, columns), shape=shape)

    def graph(self, *outputs: str, pinned: Collection[str] = ()) -> Graph:
        """The finished graph."""
        return Graph(tuple(self.nodes), dict(self.tensors), tuple(self.inputs), outputs, frozenset(pinned))
