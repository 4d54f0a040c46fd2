"""Models of single processors against the figures that were published of them."""

from __future__ import annotations

import pytest

from fewbits.costs.energy import Energy, multiply_accumulate
from fewbits.costs.ipu import InnerProductUnit
from fewbits.costs.model import Width
from fewbits.costs.mpic import Mpic, MpicEnergy
from fewbits.errors import UsageError
from fewbits.formats.floating import BF16, E4M3, FP16, FP32
from fewbits.formats.text import parse
from published_nets import convolution

LAYER = convolution("conv", 64, 64, 3, 56)


# --- MPIC ------------------------------------------------------------------------------------


def speedup(w: int, a: int) -> float:
    """Over 8 by 8 bits."""
    return Mpic().cost(LAYER, 8, 8, 8) / Mpic().cost(LAYER, w, a, 8)


def test_mpic_gains_by_matched_operands_and_hardly_by_weights_alone() -> None:
    # Ottavi et al., arXiv 2010.04073; the products per cycle as PLiNIO has them.
    assert speedup(2, 2) == pytest.approx(3.1, abs=0.01)
    assert speedup(2, 8) == pytest.approx(1.2, abs=0.02)
    assert speedup(4, 8) == pytest.approx(1.1, abs=0.01)
    assert speedup(8, 2) < 1.1
    assert speedup(4, 4) > max(speedup(2, 8), speedup(8, 2))


def test_energy_of_a_product_on_mpic() -> None:
    assert MpicEnergy().cost(LAYER, 2, 2, 8) / LAYER.macs == pytest.approx(3.3e-12, abs=0.05e-12)
    assert MpicEnergy().cost(LAYER, 8, 8, 8) / LAYER.macs == pytest.approx(10.3e-12, abs=0.06e-12)


@pytest.mark.parametrize("width", ["int8r/channel", "uint8/tensor", "int4r/g32", "ternary"])
def test_formats_count_by_their_bits(width: str) -> None:
    format = parse(width)
    assert Mpic().supports("conv", format, 8)
    assert Mpic().cost(LAYER, format, 8, 8) == Mpic().cost(LAYER, format.bits, 8, 8)


@pytest.mark.parametrize("width", [3, 16, FP16, E4M3, parse("nf4/g64"), parse("kmeans4/channel")])
@pytest.mark.parametrize("model", [Mpic(), MpicEnergy()])
def test_what_mpic_does_not_multiply_has_no_cost(model: Mpic | MpicEnergy, width: Width) -> None:
    assert not model.supports("conv", width, 8)
    with pytest.raises(UsageError, match=r"MPIC has no cost for conv conv .* it takes integers of 2, 4 or 8 bits"):
        model.cost(LAYER, width, 8, 8)


# --- the inner-product unit ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("w", "a", "passes"),
    [
        # Abdel-Aziz et al., MLSys 2021: operands are cut into nibbles, three for fp16.
        (FP16, FP16, 9),
        (4, 4, 1),
        (8, 8, 4),
        (4, 8, 2),
        (8, 4, 2),
        (5, 4, 2),
        (parse("int8r/channel"), FP16, 6),
        (BF16, BF16, 9),
        (E4M3, E4M3, 4),
    ],
)
def test_passes_of_nibbles(w: Width, a: Width, passes: int) -> None:
    assert InnerProductUnit(lanes=16).cost(LAYER, w, a, 8) == passes * LAYER.macs / 16


def test_floats_wider_than_fp16_and_codebooks_are_refused() -> None:
    for width in (FP32, parse("nf4/g64")):
        assert not InnerProductUnit().supports("conv", width, 8)
        with pytest.raises(UsageError, match="inner-product unit"):
            InnerProductUnit().cost(LAYER, 8, width, 8)


def test_a_unit_has_lanes() -> None:
    with pytest.raises(UsageError, match="positive"):
        InnerProductUnit(lanes=0)


# --- energy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "picojoules"),
    # Horowitz, ISSCC 2014: multiplication and addition; integers are summed in 32 bits.
    [(8, 0.2 + 0.1), (32, 3.1 + 0.1), (FP16, 1.1 + 0.4), (FP32, 3.7 + 0.9), (parse("int8r/channel"), 0.3)],
)
def test_energy_of_an_operation(width: Width, picojoules: float) -> None:
    assert multiply_accumulate(width, width) == pytest.approx(picojoules * 1e-12)


def test_energy_of_memory() -> None:
    # Without arithmetic: 64 bits of weight from DRAM, 128 of activations from the cache.
    layer = convolution("conv", 1, 1, 1, 1)
    moved = Energy().cost(layer, 16, 16, 16) - multiply_accumulate(16, 16)
    assert moved == pytest.approx((16 * 1300e-12 + 32 * 20e-12) / 64)


@pytest.mark.parametrize(("w", "a"), [(8, FP16), (FP16, 8), (BF16, BF16), (E4M3, E4M3)])
def test_operations_without_a_published_figure_are_refused(w: Width, a: Width) -> None:
    assert not Energy().supports("conv", w, a)
    with pytest.raises(UsageError, match="energy model"):
        Energy().cost(LAYER, w, a, 8)
