import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allocations import DOMAINS, OPTIONS, amounts, boundaries
from fewbits.search.allocation import Item
from fewbits.search.boundary import Crossing

ITEMS = [Item(name, dict.fromkeys(OPTIONS, 0.0)) for name in "ab"]


@given(boundaries(ITEMS))
def test_the_parts_of_a_boundary_add_up_to_its_cost(edge):
    split = edge.split(OPTIONS, OPTIONS)
    together = split.first[:, None] + split.second - split.saved
    expected = [[edge.cost(before, after) for after in OPTIONS] for before in OPTIONS]
    np.testing.assert_allclose(together, expected, rtol=1e-12, atol=1e-12)
    assert (split.saved >= 0).all()


@given(st.dictionaries(st.sampled_from(OPTIONS), amounts()), st.dictionaries(st.sampled_from(OPTIONS), amounts()))
def test_only_a_change_of_domain_costs(leave, enter):
    edge = Crossing("a", "b", DOMAINS, DOMAINS, leave, enter)
    for before in OPTIONS:
        for after in OPTIONS:
            paid = leave.get(before, 0.0) + enter.get(after, 0.0)
            assert edge.cost(before, after) == (0.0 if DOMAINS[before] == DOMAINS[after] else paid)
