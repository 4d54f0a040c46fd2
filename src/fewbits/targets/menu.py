"""What can be asked of a runtime for one group: the schemes that fewbits can write for it.

Whether the runtime really runs them, and in which precision, is probed (`fewbits.costs`), and whether they pay is
measured: a menu is a question, not an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from fewbits.eligibility import obstacle
from fewbits.formats.scheme import FP32, INT4_ROW_BLOCKS, INT4_ROWS, INT8_PAIR, INT8_STATIC, INT8_WEIGHT, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import RECURRENT, Group
from fewbits.space import Menu, Refusal


def menu(graph: Graph, group: Group, others: Sequence[Scheme], product_of_two: Scheme = INT8_PAIR) -> Menu:
    """fp32, static int8 and `others` for `group`, as far as they can be written; the rest refused with the reason.

    Static activations are u8 with a zero point, which holds negative values too, and second operands s8: u8 x s8 is
    the pair with VNNI speed, u8 x u8 is not, and signed activations gain nothing (docs/design.md). `product_of_two` is
    the int8 scheme of products of two activations.
    """
    pair = product_of_two if group.is_product else INT8_PAIR
    asked = (INT8_STATIC if group.weight else pair, *others)
    if group.kind is Kind.GATHER:
        asked = (INT8_WEIGHT, INT4_ROW_BLOCKS, INT4_ROWS)
    if group.kind in RECURRENT:
        asked = (*asked, INT8_WEIGHT, INT4_ROW_BLOCKS)
    reasons = {scheme: obstacle(graph, group, scheme) for scheme in dict.fromkeys(asked)}
    return Menu(
        (FP32, *(scheme for scheme, reason in reasons.items() if not reason)),
        tuple(Refusal(scheme, reason) for scheme, reason in reasons.items() if reason),
    )
