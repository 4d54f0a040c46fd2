"""Where quantisers go: which tensors carry codes, given the groups that compute in low precision.

Pure graph reasoning, no framework. The rules are oneDNN's and ONNX Runtime's (a quantised
convolution or joint writes codes, a quantised matrix product may write floats), so that no tensor
is quantised that nobody reads as codes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fewbits.formats.integer import IntFormat
from fewbits.formats.scheme import Scheme, integer
from fewbits.graph import Graph, Kind, Node
from fewbits.grouping import CARRIERS, JOINTS, Group

# A carrier that only renames or permutes moves fewer bytes on codes whoever made its input; one that
# drops elements is worth it only if its input carries codes anyway.
_ALWAYS_CARRY = frozenset({Kind.RESHAPE, Kind.TRANSPOSE})


@dataclass(frozen=True, slots=True)
class Placement:
    """`reads`: (node, tensor) → the format in which the node reads that tensor.

    `writes`: tensor → the format that its producer itself writes, so that everybody sees the quantised value.
    """

    reads: Mapping[tuple[str, str], IntFormat]
    writes: Mapping[str, IntFormat]


def place(graph: Graph, groups: Sequence[Group], schemes: Mapping[str, Scheme], *, repeats: bool = True) -> Placement:
    """Where codes flow when the groups of `schemes` (name → scheme) that are static compute on codes.

    `repeats`: carriers on codes have quantisers on both sides, as ONNX Runtime fuses them; otherwise one in front, and
    whoever reads behind the carrier reads values that are codes already.
    """
    low = [group for group in groups if schemes.get(group.name, Scheme()).is_static]
    reads: dict[tuple[str, str], IntFormat] = {}
    writes: dict[str, IntFormat] = {}
    for group in low:
        for tensor, wanted in operand_formats(graph, group, schemes[group.name]):
            # A node that reads one tensor twice reads it in one format.
            reads.setdefault((group.name, tensor), wanted)
        if writes_codes(group):
            writes[group.inner] = formats(schemes[group.name])[0]
    cast = {group.output for group in groups if schemes.get(group.name, Scheme()).is_cast}
    _carry(graph, reads, writes, cast, repeats=repeats)
    for tensor in (group.inner for group in low if not writes_codes(group)):
        formats_read = {reads.get((node.name, tensor)) for node in graph.consumers.get(tensor, ())}
        only = next(iter(formats_read), None)
        # A product gives floats for free; codes pay only if every reader wants the same ones.
        if len(formats_read) == 1 and only is not None and _is_internal(graph, tensor):
            writes[tensor] = only
    return Placement(reads, writes)


def formats(scheme: Scheme) -> tuple[IntFormat, IntFormat]:
    """The formats of the first operand and the second of a scheme that is not fp32."""
    if scheme.activation is None or scheme.weight is None:
        raise ValueError("fp32 has no integer formats")
    return integer(scheme.activation), integer(scheme.weight)


def operand_formats(graph: Graph, group: Group, scheme: Scheme) -> Iterator[tuple[str, IntFormat]]:
    """The activations that `group` reads, and what they become in `scheme`: where both operands of a product depend on
    data, or its constant stands first, the second one has the format of weights."""
    first, second = formats(scheme)
    anchor = graph.node[group.name]
    for tensor in group.operands:
        as_weight = group.kind is Kind.MATMUL and not group.weight and tensor != anchor.inputs[0]
        yield tensor, second if as_weight else first


def writes_codes(group: Group) -> bool:
    """Whether the kernel of `group` can only write codes (matrix products may also write floats)."""
    return group.kind not in (Kind.GEMM, Kind.MATMUL)


def settle(graph: Graph, groups: Sequence[Group], low: Collection[str]) -> frozenset[str]:
    """`low` without the joints that have no neighbour left that writes codes: between floats,
    quantising a joint costs more than it gives.

    An activation that no quantiser absorbs does not part neighbours: in a squeeze-and-excite block
    the joint behind a HardSwish reads floats, but gives codes to the next product.
    """
    by_name = {group.name: group for group in groups}
    kept = set(low)
    while True:
        coded = {by_name[name].output for name in kept if writes_codes(by_name[name])}
        idle = {
            name
            for name in kept
            if not by_name[name].is_product
            and not any(origin(graph, operand) in coded for operand in by_name[name].operands)
        }
        if not idle:
            return frozenset(kept)
        kept -= idle


def between_codes(graph: Graph, groups: Sequence[Group], low: Collection[str]) -> frozenset[str]:
    """Joints outside `low` that read only codes and whose every reader wants codes.

    They are quantised on both sides anyway, and a runtime may fuse them to integers unasked (ONNX
    Runtime does); naming them low says what is computed.
    """
    by_name = {group.name: group for group in groups}
    coded = {by_name[name].inner for name in low if writes_codes(by_name[name])}
    readers = {node: group for group in groups for node in group.nodes[:1]}
    found: set[str] = set()
    for group in groups:
        if group.kind not in JOINTS or group.name in low or group.inner != group.output:
            continue
        reads = all(origin(graph, operand) in coded for operand in group.operands)
        wants = [readers[node.name].name in low for node in _final_readers(graph, group.output) if node.name in readers]
        others = [node for node in _final_readers(graph, group.output) if node.name not in readers]
        if reads and wants and all(wants) and not others and _is_internal(graph, group.output):
            found.add(group.name)
            coded.add(group.output)
    return frozenset(found)


def _final_readers(graph: Graph, tensor: str) -> list[Node]:
    """Who reads `tensor`, looking through carriers."""
    found: list[Node] = []
    for node in graph.consumers.get(tensor, ()):
        found += _final_readers(graph, node.outputs[0]) if _can_carry(graph, node) else [node]
    return found


def origin(graph: Graph, tensor: str) -> str:
    """The tensor that `tensor` is a rearrangement of: upstream through carriers."""
    node = graph.producer.get(tensor)
    while node is not None and _can_carry(graph, node):
        tensor = node.inputs[0]
        node = graph.producer.get(tensor)
    return tensor


def _carry(
    graph: Graph,
    reads: dict[tuple[str, str], IntFormat],
    writes: dict[str, IntFormat],
    cast: Collection[str],
    *,
    repeats: bool,
) -> None:
    """Move quantisers upstream of carriers until nothing moves any more; never to a tensor that a product in bf16 or
    fp16 gives (`cast`), which a runtime would then compute in float32 to fuse it with the quantiser (OpenVINO does)."""
    moved = True
    while moved:
        moved = False
        for node in reversed(graph.nodes):
            if not _can_carry(graph, node) or (node.name, node.inputs[0]) in reads:
                continue
            source, output = node.inputs[0], node.outputs[0]
            wanted = [reads.get((reader.name, output)) for reader in graph.consumers.get(output, ())]
            coded = next((format for format in wanted if format is not None), None)
            if coded is None or source in cast or any(format not in (coded, None) for format in wanted):
                continue
            all_want = None not in wanted
            if writes.get(source) == coded or (all_want and node.kind in _ALWAYS_CARRY):
                reads[node.name, source] = coded
                moved = True
                if repeats:
                    writes[output] = coded
                else:
                    for reader in graph.consumers.get(output, ()):
                        reads.pop((reader.name, output), None)


def _can_carry(graph: Graph, node: Node) -> bool:
    """Whether codes may pass through `node`."""
    if node.kind not in CARRIERS or not node.inputs:
        return False
    source = graph.tensors.get(node.inputs[0])
    return (
        source is not None
        and source.dtype == "float32"
        and not source.constant
        and len(node.outputs) == 1
        and _is_internal(graph, node.outputs[0])
    )


def _is_internal(graph: Graph, tensor: str) -> bool:
    return tensor not in graph.outputs and tensor not in graph.pinned


def coded_tensors(graph: Graph, groups: Sequence[Group], classes: Collection[Collection[str]]) -> tuple[str, ...]:
    """Every tensor that could carry codes if `groups` computed in low precision, in graph order.

    `classes` are the tensors that share a scale (`grouping.tied`): one of them coded, all need the range.
    """
    found = {name for group in groups for name in (*group.operands, group.inner)}
    for members in classes:
        if not found.isdisjoint(members):
            found.update(members)
    order = [*graph.inputs, *(name for node in graph.nodes for name in node.outputs)]
    return tuple(name for name in order if name in found)
