"""HAWQ-V3 (Yao et al., arXiv 2011.10680): the bits of ResNet-18's layers under limits on size, bit operations, latency.

All figures are the authors': traces of the Hessian, squared errors of the weights, parameters, multiplications and
latencies on a T4 from ILP.ipynb of github.com/Zhen-Dong/HAWQ (commit 1616df6), the nine configurations from its
bit_config.py. What is tested is the allocation alone: sensitivities are taken as given.
"""

from __future__ import annotations

import pytest

from fewbits.search.allocation import Additive, Allocation, Item
from fewbits.search.milp import solve
from fewbits.search.program import init
from fewbits.search.solution import Ending

# fmt: off
TRACE = (
    0.06857826, 0.03162379, 0.03298575, 0.01205663, 0.02222431, 0.00596336, 0.06931772, 0.00807129, 0.00372905,
    0.00530698, 0.00209011, 0.00737569, 0.00210454, 0.00151197, 0.00158041, 0.00078146, 0.00451841, 0.00098745,
    0.00072944,
)
ERROR = {  # squared, of a layer's weights
    "8": (0.0235, 0.0125, 0.0102, 0.0082, 0.0145, 0.0344, 0.0023, 0.0287, 0.0148, 0.0333, 0.0682, 0.0027, 0.0448,
          0.0336, 0.0576, 0.1130, 0.0102, 0.0947, 0.0532),
    "4": (6.7430, 3.9691, 3.3281, 2.6796, 4.7277, 10.5966, 0.6827, 9.0942, 4.8857, 10.7599, 21.7546, 0.8603, 14.5324,
          10.9651, 18.7706, 36.4044, 3.1572, 29.6994, 17.4016),
}
LATENCY = {  # milliseconds on a T4
    "4": (0.21094404, 0.21092674, 0.21104113, 0.21086851, 0.13642465, 0.19167506, 0.02532183, 0.19148203, 0.19142914,
          0.11395316, 0.20556011, 0.01917474, 0.20566918, 0.20566509, 0.13185102, 0.22287786, 0.01790088, 0.22304611,
          0.22286099),
    "8": (0.36189111, 0.36211718, 0.31141909, 0.30454471, 0.19184896, 0.38948934, 0.0334169, 0.38904905, 0.3892859,
          0.19134735, 0.34307431, 0.02802354, 0.34313329, 0.34310756, 0.21117103, 0.37376585, 0.02896843, 0.37398187,
          0.37405185),
}
PARAMETERS = (
    *[36864] * 4, 73728, 147456, 8192, *[147456] * 2, 294912, 589824, 32768, *[589824] * 2, 1179648, 2359296, 131072,
    *[2359296] * 2,
)
MULTIPLICATIONS = (
    *[115605504] * 4, 57802752, 115605504, 6422528, *[115605504] * 2, 57802752, 115605504, 6422528, *[115605504] * 2,
    57802752, 115605504, 6422528, *[115605504] * 2,
)
# fmt: on
SHORTCUTS = ((4, 6), (9, 11), (14, 16))
"""A convolution and the one on the shortcut beside it, whose outputs are added."""

PUBLISHED = {
    ("size", 0.25): "8888888888888844444",
    ("size", 0.5): "8888888888888884844",
    ("size", 0.75): "8888888888888488884",
    ("bops", 0.25): "8884848444444444444",
    ("bops", 0.5): "8884888848884444444",
    ("bops", 0.75): "8888888848888484884",
    ("latency", 0.25): "8884848444444444444",
    ("latency", 0.5): "8888848848884484844",
    ("latency", 0.75): "8888888848888484884",
}


def resnet18() -> Allocation:
    names = [str(place) for place in range(len(TRACE))]
    items = [
        Item(name, {bits: trace * ERROR[bits][place] for bits in "48"})
        for place, (name, trace) in enumerate(zip(names, TRACE, strict=True))
    ]

    def table(cost_4: list[float], cost_8: list[float]) -> dict[str, dict[str, float]]:
        return {name: {"4": low, "8": high} for name, low, high in zip(names, cost_4, cost_8, strict=True)}

    resources = [
        Additive("size", table([n / 2**21 for n in PARAMETERS], [n / 2**20 for n in PARAMETERS])),
        Additive("bops", table([n / 64 for n in MULTIPLICATIONS], [n / 16 for n in MULTIPLICATIONS])),
        Additive("latency", table(list(LATENCY["4"]), list(LATENCY["8"]))),
    ]
    return Allocation(items, resources, [(names[a], names[b]) for a, b in SHORTCUTS])


@pytest.mark.parametrize(("limited", "share"), PUBLISHED)
def test_the_published_bits_are_the_optimum(limited: str, share: float) -> None:
    allocation = resnet18()
    low, high = (allocation.values({item.name: bits for item in allocation.items})[limited] for bits in "48")
    solution = solve(init(allocation), {limited: low + (high - low) * share})
    assert solution.ending is Ending.OPTIMAL
    assert "".join(solution.choice[item.name] for item in allocation.items) == PUBLISHED[limited, share]
