"""Which nodes must share one scheme, found from the graph's structure alone.

Sorts of groups:

* **products**: a convolution or matrix product with its batch norm, bias and activation;
* **joints**: an operation between products that a runtime may run on integers (addition,
  multiplication, concat, average pool) with the activation behind it;
* **attentions**: both products with their Softmax, where that is one call;
* **recurrent layers**: an LSTM, GRU or RNN, both of whose products share the scheme;
* **tables**: a constant matrix whose rows are looked up (embeddings);
* **carriers** are not groups: max-pool, reshape, transpose and slice have no scheme of their own,
  a scale passes through them unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from fewbits.graph import Graph, Kind, Node

PRODUCTS = frozenset({Kind.CONV, Kind.CONV_TRANSPOSE, Kind.MATMUL, Kind.GEMM})
RECURRENT = frozenset({Kind.LSTM, Kind.GRU, Kind.RNN})
LAYERS = PRODUCTS - {Kind.CONV_TRANSPOSE}
"""Products whose outputs are each a row of the weight times what it reads."""
JOINTS = frozenset({Kind.ADD, Kind.MUL, Kind.CONCAT, Kind.AVERAGE_POOL, Kind.GLOBAL_AVERAGE_POOL})
CARRIERS = frozenset({Kind.MAX_POOL, Kind.RESHAPE, Kind.TRANSPOSE, Kind.SLICE})
ABSORBED = frozenset({Kind.RELU, Kind.CLIP})
"""Activations that a quantiser behind them absorbs: its range ends where theirs does."""
_MOST_BETWEEN = 8
"""Nodes between a product of queries and keys and its Softmax: scaling, masking, casts."""
_ACTIVATIONS = ABSORBED | {Kind.HARD_SWISH, Kind.HARD_SIGMOID, Kind.SIGMOID}


@dataclass(frozen=True, slots=True)
class Group:
    """An anchor and what is fused behind it.

    `nodes` starts with the anchor, in graph order; `operands` are the activation tensors that the
    anchor reads; `weight` names its constant second operand and `bias` the tensor that is added
    behind, ``""`` where there is none; `inner` is the tensor that the arithmetic itself gives
    (behind batch norm, bias and an absorbed activation); `output` is the tensor behind the last
    fused node, the same as `inner` unless an activation follows that no quantiser can absorb
    (HardSwish, Sigmoid). `constant` names the constant operand of a matrix product that is no
    weight, because it stands first or is more than one matrix: it has one scale, as an activation.
    """

    name: str
    kind: Kind
    nodes: tuple[str, ...]
    operands: tuple[str, ...]
    weight: str
    bias: str
    inner: str
    output: str
    constant: str = ""

    @property
    def is_product(self) -> bool:
        """Whether the anchor multiplies and accumulates; otherwise the group is a joint."""
        return self.kind in PRODUCTS or self.kind is Kind.ATTENTION


def channels_last(graph: Graph, made: Group) -> bool:
    """Whether what the product `made` sums over lies along the last axis of its first operand, or the second one of
    an image: not where a Gemm transposes that operand."""
    return not graph.node[made.name].attributes.get("transA", 0)


def has_constant_first(graph: Graph, made: Group) -> bool:
    """Whether the first operand of the product `made` is a constant, and its second one is not."""
    return bool(made.constant) and graph.node[made.name].inputs[0] == made.constant


def group(graph: Graph) -> tuple[Group, ...]:
    """All groups of `graph`, in graph order; every node is in at most one."""
    taken: set[str] = set()
    found: list[Group] = []
    for wanted in (PRODUCTS, JOINTS):
        for node in graph.nodes:
            if node.kind in wanted and node.name not in taken:
                made = _product(graph, node) if wanted is PRODUCTS else _joint(graph, node)
                if made is not None:
                    found.append(made)
                    taken.update(made.nodes)
    found += [_recurrent(graph, node) for node in graph.nodes if node.kind in RECURRENT and _is_trained(graph, node)]
    found += [_attention(graph, node) for node in graph.nodes if node.kind is Kind.ATTENTION]
    found += [_table(node) for node in graph.nodes if node.kind is Kind.GATHER and _looks_up_rows(graph, node)]
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    return tuple(sorted(found, key=lambda made: order[made.name]))


def _product(graph: Graph, anchor: Node) -> Group | None:
    if len(anchor.inputs) < 2:
        return None
    operands = tuple(name for name in anchor.inputs[:2] if not graph.is_constant(name))
    second = anchor.inputs[1] if graph.is_constant(anchor.inputs[1]) else ""
    weight = "" if anchor.kind is Kind.MATMUL and _is_batch(graph, second) else second
    constant = next((name for name in anchor.inputs[:2] if graph.is_constant(name) and name != weight), "")
    bias = anchor.inputs[2] if len(anchor.inputs) > 2 else ""
    nodes, tensor = [anchor], anchor.outputs[0]
    if anchor.kind in (Kind.CONV, Kind.CONV_TRANSPOSE):
        following = graph.only_consumer(tensor)
        if following is not None and _is_affine_norm(graph, following):
            nodes.append(following)
            tensor = following.outputs[0]
    if anchor.kind is Kind.MATMUL and second:
        following = graph.only_consumer(tensor)
        added = _vector_bias(graph, following, tensor, second)
        if following is not None and added:
            nodes.append(following)
            bias, tensor = added, following.outputs[0]
    made = _with_activation(graph, anchor, nodes, operands, weight, bias, tensor)
    return replace(made, constant=constant) if operands else made


def _is_batch(graph: Graph, name: str) -> bool:
    """Whether the constant `name` is more than one matrix."""
    tensor = graph.tensors.get(name)
    return tensor is not None and tensor.shape is not None and len(tensor.shape) > 2


MATRICES = (1, 2)
"""The places of the matrices of a recurrent layer: by what it reads, and by its last state."""


def matrices(graph: Graph, made: Group) -> tuple[str, ...]:
    """The constant matrices of the recurrent group `made`: two, or two of each layer and direction. Its biases have
    fewer axes."""
    read = graph.node[made.name].inputs
    ranks = {name: len(graph.tensors[name].shape or ()) for name in read if graph.is_constant(name)}
    return tuple(dict.fromkeys(name for name, rank in ranks.items() if rank == ranks[read[MATRICES[0]]]))


def _is_trained(graph: Graph, node: Node) -> bool:
    """Whether the matrices of a recurrent layer are constants."""
    return all(graph.is_constant(node.inputs[place]) for place in MATRICES)


def _recurrent(graph: Graph, node: Node) -> Group:
    operands = tuple(name for name in node.inputs if name and not graph.is_constant(name))
    result = next(name for name in node.outputs if name)
    return Group(node.name, node.kind, (node.name,), operands, node.inputs[1], "", result, result)


def _looks_up_rows(graph: Graph, node: Node) -> bool:
    """Whether `node` gives rows of a constant float matrix that depend on data."""
    table, rows = node.inputs
    stored = graph.tensors.get(table)
    matrix = stored is not None and stored.constant and stored.shape is not None and len(stored.shape) == 2
    return (
        matrix and _dtype(graph, table) == "float32" and not graph.is_constant(rows) and not node.attributes.get("axis")
    )


def _table(node: Node) -> Group:
    return Group(
        node.name, node.kind, (node.name,), node.inputs[1:], node.inputs[0], "", node.outputs[0], node.outputs[0]
    )


def _attention(graph: Graph, node: Node) -> Group:
    floats = tuple(name for name in node.inputs if not graph.is_constant(name) and _dtype(graph, name) == "float32")
    return Group(node.name, node.kind, (node.name,), floats, "", "", node.outputs[0], node.outputs[0])


def _joint(graph: Graph, anchor: Node) -> Group | None:
    operands = tuple(name for name in anchor.inputs if name and not graph.is_constant(name))
    # A joint joins activations: scaling by a constant or adding one is somebody else's affine part.
    if len(operands) != len(anchor.inputs):
        return None
    if any(_dtype(graph, name) not in ("float32", "unknown") for name in operands):
        return None
    return _with_activation(graph, anchor, [anchor], operands, "", "", anchor.outputs[0])


def _with_activation(
    graph: Graph, anchor: Node, nodes: list[Node], operands: tuple[str, ...], weight: str, bias: str, tensor: str
) -> Group:
    inner = output = tensor
    following = graph.only_consumer(tensor)
    if following is not None and following.kind in _ACTIVATIONS and _is_unary(graph, following):
        nodes.append(following)
        output = following.outputs[0]
        inner = output if following.kind in ABSORBED else inner
    names = tuple(node.name for node in nodes)
    return Group(anchor.name, anchor.kind, names, operands, weight, bias, inner, output)


def _is_unary(graph: Graph, node: Node) -> bool:
    return all(not name or graph.is_constant(name) for name in node.inputs[1:])


def _is_affine_norm(graph: Graph, node: Node) -> bool:
    """Whether `node` is a batch norm with constant statistics, as in inference."""
    in_training = bool(node.attributes.get("training_mode")) or any(node.outputs[1:])
    return node.kind is Kind.BATCH_NORM and _is_unary(graph, node) and not in_training


def _vector_bias(graph: Graph, node: Node | None, tensor: str, weight: str) -> str:
    """The constant that `node` adds to `tensor` along the last axis, ``""`` if it does not."""
    if node is None or node.kind is not Kind.ADD or len(node.inputs) != 2:
        return ""
    other = node.inputs[0] if node.inputs[1] == tensor else node.inputs[1]
    if not graph.is_constant(other) or not graph.tensors[other].finite:
        return ""
    shape, columns = graph.tensors[other].shape, graph.tensors[weight].shape
    if not shape or not columns or len(columns) < 2 or any(size != 1 for size in shape[:-1]):
        return ""
    product = graph.tensors.get(tensor)
    # A vector of a higher rank than the product, (1, 1, N) on (M, N), would add an axis to it.
    rank = 1 if product is None or product.shape is None else len(product.shape)
    return other if shape[-1] == columns[-1] and len(shape) <= rank else ""


def _dtype(graph: Graph, name: str) -> str:
    tensor = graph.tensors.get(name)
    return "unknown" if tensor is None else tensor.dtype


def tied(graph: Graph, groups: Iterable[Group]) -> tuple[frozenset[str], ...]:
    """Classes of tensors that must share one scale: what a carrier passes through, and everything
    that a concat joins (Rodriguez et al. 2018, section 4: one scale across the inputs)."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    joined = [(node.inputs[0], node.outputs[0]) for node in graph.nodes if node.kind in CARRIERS]
    joined += [(name, made.inner) for made in groups if made.kind is Kind.CONCAT for name in made.operands]
    for one, other in joined:
        parent[root(one)] = root(other)
    classes: dict[str, set[str]] = {}
    for name in parent:
        classes.setdefault(root(name), set()).add(name)
    return tuple(frozenset(members) for members in classes.values() if len(members) > 1)


def attentions(graph: Graph, groups: Iterable[Group]) -> tuple[tuple[str, str], ...]:
    """The pairs of products of activations with a Softmax between them, scaling and masks aside: Q K and P V."""
    pairs = {made.name: made for made in groups if made.is_product and len(made.operands) == 2}
    givers = {made.output: made.name for made in pairs.values()}
    readers = {made.operands[0]: made.name for made in pairs.values() if made.operands}
    found = []
    for node in graph.nodes:
        if node.kind is not Kind.SOFTMAX:
            continue
        first = _upstream(graph, node.inputs[0], givers)
        second = _downstream(graph, node.outputs[0], readers)
        if first and second:
            found.append((first, second))
    return tuple(found)


def _upstream(graph: Graph, tensor: str, givers: Mapping[str, str]) -> str:
    """The nearest of `givers` on the ways up from `tensor`, not past another product; "" if there is none."""
    ways = [tensor]
    for _ in range(_MOST_BETWEEN):
        for name in ways:
            if name in givers:
                return givers[name]
        nodes = [node for node in map(graph.producer.get, ways) if node is not None and node.kind not in PRODUCTS]
        ways = [name for node in nodes for name in node.inputs if name and not graph.is_constant(name)]
    return ""


def _downstream(graph: Graph, tensor: str, readers: Mapping[str, str]) -> str:
    while tensor not in readers:
        node = graph.only_consumer(tensor)
        if node is None or node.kind not in CARRIERS:
            return ""
        tensor = node.outputs[0]
    return readers[tensor]
