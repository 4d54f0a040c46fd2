"""What each group costs in each scheme on one target: seconds for getting in, computing, and getting out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fewbits.costs.key import RegionCost


@dataclass(frozen=True, slots=True)
class Along:
    """What a sum costs that the kernel of the group `product` takes along: in floats `seconds` of arithmetic, where
    `product` is in codes. Its cost in fp32 is that of a kernel of its own, its cost in codes that of codes taken along.
    """

    product: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CostTable:
    """`costs`: group → scheme text → its cost; what the target refused has a `refusal` and no meaning otherwise.
    `along` has the sums that a product takes along.
    `measured` counts the regions that were measured now, `known` those that were found in the cache."""

    target: str
    costs: Mapping[str, Mapping[str, RegionCost]]
    measured: int = 0
    known: int = 0
    along: Mapping[str, Along] = field(default_factory=dict)

    def usable(self, group: str) -> Mapping[str, RegionCost]:
        """The schemes that really run for `group`."""
        return {scheme: cost for scheme, cost in self.costs.get(group, {}).items() if not cost.refusal}
