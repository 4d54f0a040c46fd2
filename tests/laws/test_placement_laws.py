"""Laws of placement, over random sets of low groups on random graphs and on every structure of the builders."""

import functools
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import builders
from fewbits.formats.scheme import FP32
from fewbits.graph import Graph
from fewbits.grouping import CARRIERS, Group, group, tied
from fewbits.models import open_model
from fewbits.placement import Placement, between_codes, coded_tensors, formats, place, settle, writes_codes
from graphs import int8
from random_graphs import graphs


@functools.cache
def real(name: str) -> Graph:
    return open_model(builders.CASES[name].model(0)).graph


def subset(data: st.DataObject, groups: Collection[Group]) -> list[str]:
    names = [one.name for one in groups]
    return data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []


def check_placement(graph: Graph, groups: tuple[Group, ...], low: Collection[str]) -> None:
    schemes = {one.name: int8(one) for one in groups if one.name in low}
    placed = place(graph, groups, schemes)
    by_name = {one.name: one for one in groups}
    everybody_has_what_it_needs(graph, [by_name[name] for name in low], placed)
    makers = {by_name[name].inner: by_name[name] for name in low}
    for (node, tensor), format in placed.reads.items():
        assert tensor in graph.node[node].inputs
        assert not graph.is_constant(tensor)
        if graph.node[node].kind in CARRIERS:
            assert placed.writes[graph.node[node].outputs[0]] == format
        else:
            assert node in low
            assert format in formats(schemes[node])
    for tensor, format in placed.writes.items():
        readers = graph.consumers.get(tensor, ())
        in_codes = [node for node in readers if placed.reads.get((node.name, tensor)) == format]
        producer = graph.producer[tensor]
        if producer.kind in CARRIERS:
            assert (producer.name, producer.inputs[0]) in placed.reads
            assert in_codes
        elif writes_codes(makers[tensor]):
            # Nobody may want the codes, but somebody reads the values.
            assert readers or tensor in graph.outputs or tensor in graph.pinned
        else:
            assert len(in_codes) == len(readers) > 0
        if producer.kind in CARRIERS or not writes_codes(makers[tensor]):
            assert tensor not in graph.outputs and tensor not in graph.pinned


def check_without_repeats(graph: Graph, groups: tuple[Group, ...], low: Collection[str]) -> None:
    """Every operand of a group is codes, quantised right before it or before the carriers that lead to it."""
    schemes = {one.name: int8(one) for one in groups if one.name in low}
    both = place(graph, groups, schemes)
    placed = place(graph, groups, schemes, repeats=False)
    assert not any(graph.producer[tensor].kind in CARRIERS for tensor in placed.writes)
    assert placed.reads.items() <= both.reads.items()
    assert placed.writes.items() <= both.writes.items()
    for place_of, wanted in both.reads.items():
        found = place_of
        while found not in placed.reads:
            carrier = graph.producer[found[1]]
            assert carrier.kind in CARRIERS
            found = (carrier.name, carrier.inputs[0])
        assert placed.reads[found] == wanted


def everybody_has_what_it_needs(graph: Graph, low: list[Group], placed: Placement) -> None:
    for one in low:
        assert all((one.name, tensor) in placed.reads for tensor in one.operands)
        assert not writes_codes(one) or one.inner in placed.writes
    ranges = set(coded_tensors(graph, low, tied(graph, group(graph))))
    assert {tensor for _, tensor in placed.reads} | set(placed.writes) <= ranges


def check_settling(graph: Graph, groups: tuple[Group, ...], low: Collection[str], more: Collection[str]) -> None:
    kept = settle(graph, groups, low)
    assert kept <= set(low)
    assert settle(graph, groups, kept) == kept
    assert kept <= settle(graph, groups, {*low, *more})
    assert {one.name for one in groups if one.is_product and one.name in low} <= kept
    joined = between_codes(graph, groups, kept)
    by_name = {one.name: one for one in groups}
    assert not joined & kept
    assert not any(by_name[name].is_product for name in joined)
    # What is added reads codes, so it stays.
    assert settle(graph, groups, kept | joined) == kept | joined


@settings(max_examples=400)
@given(graphs(), st.data())
def test_random_graphs(graph: Graph, data: st.DataObject) -> None:
    groups = group(graph)
    check_placement(graph, groups, subset(data, groups))
    check_without_repeats(graph, groups, subset(data, groups))
    check_settling(graph, groups, subset(data, groups), subset(data, groups))


@pytest.mark.parametrize("name", builders.CASES)
@given(data=st.data())
def test_real_graphs(name: str, data: st.DataObject) -> None:
    graph = real(name)
    groups = group(graph)
    check_placement(graph, groups, subset(data, groups))
    check_placement(graph, groups, [one.name for one in groups])
    check_without_repeats(graph, groups, subset(data, groups))
    check_settling(graph, groups, subset(data, groups), subset(data, groups))


@pytest.mark.parametrize("name", builders.CASES)
def test_nothing_low_places_nothing(name: str) -> None:
    graph = real(name)
    groups = group(graph)
    for schemes in ({}, {one.name: FP32 for one in groups}):
        placed = place(graph, groups, schemes)
        assert not placed.reads and not placed.writes
    assert settle(graph, groups, ()) == frozenset()
    assert between_codes(graph, groups, ()) == frozenset()
