"""Arrays in formats: figures, refusals, totals, and what may not be silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log10

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from fewbits.comparison import (
    CANDIDATES,
    Cell,
    FormatComparison,
    Octaves,
    Refused,
    compare,
    measured,
    octaves,
    stored_bits,
    unusable,
    widened,
)
from fewbits.data.batches import Array
from fewbits.data.weights import FileWeights
from fewbits.errors import FormatError
from fewbits.formats.numerics.fidelity import Fidelity
from fewbits.formats.quantize import fake_quantize, quantize
from fewbits.formats.text import format_text, parse
from fewbits.graph import Tensor

RANDOM = np.random.default_rng(0)


def weights(**arrays: Array) -> FileWeights:
    tensors = tuple(Tensor(name, array.dtype.name, array.shape, constant=True) for name, array in arrays.items())
    return FileWeights(tensors, arrays.__getitem__)


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def cell(found: Cell | Refused) -> Cell:
    assert isinstance(found, Cell), found
    return found


def sqnr(x: Array, y: Array) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()))


@pytest.mark.parametrize("format", CANDIDATES)
def test_every_candidate_is_measured_as_it_rounds(format: str) -> None:
    x = normal(48, 96)
    found = cell(measured(x, parse(format)))
    assert found.fidelity.sqnr == pytest.approx(sqnr(x, fake_quantize(x, format)), abs=1e-6)
    assert found.fidelity.underflowed == int(((x != 0) & (fake_quantize(x, format) == 0)).sum())
    assert 0 < found.span.lowest <= found.span.smallest <= found.span.largest <= found.span.highest


@pytest.mark.parametrize("format", [*CANDIDATES, "uint8/channel", "kmeans4/tensor", "binary/tensor", "nvfp4/tile16x16"])
@pytest.mark.parametrize("shape", [(48, 96), (7, 33)])
def test_bits_are_those_that_are_stored(format: str, shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    assert stored_bits(parse(format), shape) == pytest.approx(quantize(x, format).nbytes * 8 / x.size, rel=0.01)


def test_the_candidates_are_canonical_and_each_of_another_kind() -> None:
    assert [format_text(parse(text)) for text in CANDIDATES] == list(CANDIDATES)
    assert len(set(CANDIDATES)) == len(CANDIDATES)


@pytest.mark.parametrize(
    ("format", "clips"), [("mxfp8_e4m3", True), ("mxfp8_e4m3-rceil", False), ("int8r/tensor", False)]
)
def test_clipping_follows_the_scale_rule(format: str, *, clips: bool) -> None:
    # 511 / 2**8 = 1.99 lies beyond 448 / 2**8 = 1.75, the end of the block under FLOOR.
    x = np.full((2, 32), 511.0, np.float32)
    x[:, 1:] = 1.0
    assert cell(measured(x, parse(format))).fidelity.clipped == (2 if clips else 0)


def test_unscaled_formats_clip_at_their_own_limits() -> None:
    x = np.array([1.0, 447.0, 463.0, 465.0, -1e9], np.float32)
    assert cell(measured(x, parse("fp8_e4m3"))).fidelity.clipped == 2


@pytest.mark.parametrize(
    ("format", "shape", "said"),
    [
        ("int8r/channel", (), "axis 0"),
        ("int8r/channel", (5,), "every single element of shape 5"),
        ("int8r/channel", (5, 1), "every single element of shape 5 x 1"),
        ("mxfp4", (), "axis -1"),
        ("bfp8/tile24x24", (5,), "2 axes"),
        ("int8r/channel@2", (4, 4), "axis 2"),
    ],
)
def test_what_cannot_be_applied_says_why(format: str, shape: tuple[int, ...], said: str) -> None:
    found = measured(np.ones(shape, np.float32), parse(format))
    assert isinstance(found, Refused)
    assert said in found.reason


@pytest.mark.parametrize("format", ["int8r/tensor", "fp8_e4m3/tensor", "bf16", "fp8_e5m2"])
def test_a_single_number_can_be_rounded(format: str) -> None:
    assert cell(measured(np.array(3.0, np.float32), parse(format))).fidelity.sqnr > 20


def test_several_tensors() -> None:
    arrays = weights(a=normal(32, 64), b=normal(64), c=np.array(2.0, np.float32), i=np.arange(4))
    found = compare(arrays, ("int8r/channel", "mxfp4"))
    assert [row.name for row in found.rows] == ["a", "b", "c"]
    assert [row.elements for row in found.rows] == [2048, 64, 1]
    assert [skipped.name for skipped in found.skipped] == ["i"]
    assert "int64" in found.skipped[0].reason
    kinds = [[isinstance(one, Cell) for one in row.cells] for row in found.rows]
    assert kinds == [[True, True], [False, True], [False, False]]
    assert [(total.format, total.arrays, total.elements) for total in found.totals] == [
        ("int8r/channel", 1, 2048),
        ("mxfp4", 2, 2112),
    ]


def test_nan_and_inf_are_counted_and_do_not_count() -> None:
    x = normal(8, 32)
    x[0, 0], x[1, 1], x[2, 2] = np.nan, np.inf, -np.inf
    row = compare(weights(w=x), ("int8r/tensor",)).rows[0]
    assert (row.nans, row.infinities, cell(row.cells[0]).fidelity.finite) == (1, 2, 253)
    finite = np.where(np.isfinite(x), x, 0)
    assert cell(row.cells[0]).fidelity.sqnr == pytest.approx(sqnr(finite, fake_quantize(finite, "int8r/tensor")))


def test_nothing_but_nan() -> None:
    row = compare(weights(w=np.full((2, 3), np.nan, np.float32)), ("int8r/tensor", "mxfp4")).rows[0]
    assert row.nans == 6
    assert {cell(one).fidelity.finite for one in row.cells} == {0}
    assert row.octaves == Octaves(0, (), 0)


def test_narrow_types_are_widened_so_that_only_the_format_shows() -> None:
    half, brain = normal(16, 32).astype(np.float16), (normal(16, 32) * 1e9).astype(ml_dtypes.bfloat16)
    found = compare(weights(h=half, b=brain, d=normal(4, 4).astype(">f8")), ("fp16", "bf16", "mxfp4"))
    exact = [[cell(one).fidelity.sqnr == inf for one in row.cells] for row in found.rows]
    assert exact == [[True, False, False], [False, True, False], [False, False, False]]
    assert cell(found.rows[0].cells[2]).fidelity.sqnr == pytest.approx(
        sqnr(half, fake_quantize(half.astype(np.float32), "mxfp4"))
    )
    assert widened(np.zeros(2, ">f4")).dtype == np.float32


def test_only_the_named_tensors_are_read() -> None:
    read = []

    def reader(name: str) -> Array:
        read.append(name)
        return normal(4, 4)

    tensors = tuple(Tensor(name, "float32", (4, 4)) for name in "abc")
    found = compare(FileWeights(tensors, reader), ("bf16",), ["c", "a"])
    assert read == [row.name for row in found.rows] == ["a", "c"]


@pytest.mark.parametrize(("text", "said"), [("int9000", "format"), ("fp8_e4m4", "fp8_e4m3"), ("int8", "int8/tensor")])
def test_a_format_that_can_never_be_applied_is_refused_before_anything_is_read(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        compare(FileWeights((Tensor("a", "float32", (2,)),), {}.__getitem__), ("bf16", text))


@pytest.mark.parametrize(
    ("dtype", "shape", "usable"),
    [
        ("float32", (2,), True),
        ("bfloat16", (), True),
        ("int8", (2,), False),
        ("float8_e4m3fn", (2,), False),
        ("float32", (0, 4), False),
        ("complex64", (2,), False),
        ("float128", (2,), False),
    ],
)
def test_what_can_be_compared(dtype: str, shape: tuple[int, ...], *, usable: bool) -> None:
    assert (unusable(Tensor("a", dtype, shape)) == "") == usable


def test_octaves_count_every_magnitude() -> None:
    x = np.array([[0.0, -0.0, 1.0, -1.5, 2.0], [0.24, np.nan, np.inf, 3.99, -0.25]], np.float32)
    assert octaves(x) == Octaves(-3, (1, 1, 0, 2, 2), 2)
    assert octaves(np.array([2.0**-149, 2.0**127], np.float32)).counts[:: 127 + 149] == (1, 1)


class Said:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0

    def stage(self, title: str, total: int | None = None) -> None:
        del title
        self.total = total

    def advance(self, note: str = "") -> None:
        del note
        self.done += 1

    def say(self, text: str) -> None:
        del text


def test_progress_goes_by_size_and_ends_where_it_said() -> None:
    said = Said()
    compare(weights(small=normal(2), large=normal(512, 512)), ("bf16", "fp16"), progress=said)
    assert said.done == said.total == 2 * (1 + 5)


@dataclass(frozen=True)
class Made:
    """A comparison by hand: SQNR and bits of each format, by tensor."""

    sizes: Mapping[str, int]
    figures: Mapping[str, Sequence[tuple[float, float]]]

    def comparison(self) -> FormatComparison:
        from fewbits.comparison import Row, Span

        span = Span(0.1, 1.0, 0.1, 1.0)
        rows = tuple(
            Row(
                name,
                "float32",
                (size,),
                0,
                0,
                Octaves(0, (size,), 0),
                tuple(
                    Cell(bits, Fidelity(size, size, db, size // 10, 0, 0.0), span)
                    for db, bits in (cells[place] for cells in self.figures.values())
                ),
            )
            for place, (name, size) in enumerate(self.sizes.items())
        )
        return FormatComparison(tuple(self.figures), rows)


def test_totals_are_weighted_by_size() -> None:
    made = Made({"a": 300, "b": 100}, {"x": [(20.0, 8.0), (10.0, 4.0)]}).comparison()
    total = made.totals[0]
    assert total.sqnr == pytest.approx(-10 * log10((300 * 0.01 + 100 * 0.1) / 400))
    assert total.bits == pytest.approx(7.0)
    assert total.clipped_share == pytest.approx(0.1)
    assert (total.worst, total.worst_sqnr, total.elements) == ("b", 10.0, 400)


def test_an_exact_tensor_does_not_hide_the_others_and_a_lost_one_shows() -> None:
    assert Made({"a": 1, "b": 1}, {"x": [(inf, 8), (20.0, 8)]}).comparison().totals[0].sqnr == pytest.approx(
        23.01, abs=0.01
    )
    assert Made({"a": 1, "b": 1}, {"x": [(inf, 8), (inf, 8)]}).comparison().totals[0].sqnr == inf
    assert Made({"a": 1, "b": 1}, {"x": [(-inf, 8), (90.0, 8)]}).comparison().totals[0].sqnr == -inf


def test_the_best_for_every_budget_of_bits() -> None:
    made = Made(
        {"a": 1},
        {"wide": [(70.0, 16)], "waste": [(60.0, 17)], "good": [(40.0, 8)], "bad": [(30.0, 8)], "few": [(20.0, 4)]}
        | {"worse": [(19.0, 5)]},
    ).comparison()
    assert [total.format for total in made.worth_their_bits] == ["few", "good", "wide"]


def test_the_worst_tensor_comes_first_whatever_is_exact() -> None:
    made = Made(
        {"good": 1, "bad": 1, "exact": 1}, {"x": [(30.0, 8), (10.0, 8), (inf, 8)], "y": [(inf, 8), (inf, 8), (inf, 8)]}
    ).comparison()
    assert [row.name for row in made.worst_first] == ["bad", "good", "exact"]
