"""Recipes: what a name, a text and a table have in common."""

from __future__ import annotations

import pytest

from fewbits import training
from fewbits.errors import RecipeError
from fewbits.training.cell import Cell
from fewbits.training.scalers import Dynamic, LayerAdaptive, NoScale, RisingFloor, Static, parse_scaler
from fewbits.training.schedule import Boost, Moq, parse_schedule
from fewbits.training.table import Place, Recipe, differences

NAMES = {
    *("fp32", "tf32", "amp_fp16", "amp_bf16", "bf16_pure", "fp8_mellempudi", "fp8_hybrid_delayed"),
    *("fp8_hybrid_current", "fp8_rowwise", "fp8_block128", "hbfp8_16", "hbfp12_16", "hbfp4_6_booster"),
    *("mxfp8_rceil", "mxfp6", "mxfp4_weights", "nvfp4", "moq", "binary_connect"),
}


def test_every_promised_recipe_is_there() -> None:
    assert set(training.names()) >= NAMES


@pytest.mark.parametrize("name", training.names())
def test_a_recipe_prints_itself(name: str) -> None:
    recipe = training.recipe(name)
    assert recipe.name == name
    assert Recipe.parse(str(recipe)) == recipe
    assert training.recipe(str(recipe)) == recipe
    assert hash(Recipe.parse(str(recipe))) == hash(recipe)


def test_recipes_of_the_catalogue_differ() -> None:
    bodies = [str(training.recipe(name)).partition("\n")[2] for name in training.names()]
    assert len(set(bodies)) == len(bodies)


def test_a_recipe_on_one_line() -> None:
    recipe = training.recipe("recipe: mine; weight forward: fp8_e4m3/tensor; keep: first name:head$; scaler: static")
    assert str(recipe.cell(Place.WEIGHT_FORWARD)) == "fp8_e4m3/tensor"
    assert recipe.cell(Place.WEIGHT_BACKWARD) == recipe.cell(Place.WEIGHT_FORWARD)
    assert recipe.cell(Place.ERROR_BACKWARD).is_identity
    assert recipe.keep == ("first", "name:head$")
    assert recipe.scaler == Static()


def test_settings_of_mellempudi_are_the_toolkit_s() -> None:
    # IntelLabs FP8-Emulation-Toolkit, E5M2Emulator, "direct": nearest forward, stochastic backward, fp16 masters.
    recipe = training.recipe("fp8_mellempudi")
    assert {place: str(cell) for place, cell in recipe.cells.items()} == {
        Place.WEIGHT_FORWARD: "fp8_e5m2 nonsaturate",
        Place.ACTIVATION_FORWARD: "fp8_e5m2 nonsaturate",
        Place.ACTIVATION_OUTPUT: "fp8_e5m2 nonsaturate",
        Place.ERROR_BACKWARD: "fp8_e5m2 stochastic nonsaturate",
        Place.ERROR_OUTPUT: "fp8_e5m2 stochastic nonsaturate",
        Place.GRADIENT: "fp8_e5m2 stochastic nonsaturate",
        Place.MASTER: "fp16 stochastic",
    }
    assert isinstance(recipe.scaler, RisingFloor)


def test_differences_name_what_differs() -> None:
    one = training.recipe("fp8_hybrid_current")
    other = one.with_cells({Place.WEIGHT_FORWARD: Cell.parse("fp8_e5m2")})
    assert differences(one, other) == ["weight forward: fp8_e4m3/tensor | fp8_e5m2"]
    assert differences(one, one) == []
    assert "scaler: - | dynamic" in differences(one, training.recipe("amp_fp16"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fp8_hybrid", "fp8_hybrid_delayed or fp8_hybrid_current"),
        ("mxpf8", "mxfp8_rceil"),
        ("", "is not a recipe"),
        ("recipe: a; wieght forward: bf16", "did you mean weight forward"),
        ("recipe: a; weight forward: fp9", "fp9"),
        ("recipe: a; weight forward: bf16 upward", "says nothing about a cast"),
        ("recipe: a; weight forward: bf16; weight forward: fp16", "says something twice"),
        ("weight forward: bf16", "begins with its name"),
        ("recipe: a; weight forward: mxfp4 delayed16", "one scale for the tensor"),
        ("recipe: a; master: bf16 stochastic kahan", "choose one"),
        ("recipe: a; weight forward: bf16 kahan", "for masters"),
        ("recipe: a; scaler: dynamic initial=0", "positive"),
        ("recipe: a; scaler: dinamic", "choose none, static, dynamic"),
        ("recipe: a; scaler: dynamic growht=2", "has no 'growht'"),
        ("recipe: a; keep: middle", "first, last or name:PATTERN"),
        ("recipe: a; keep: name:(", "not a regular expression"),
        ("recipe: a; reach: amp", "needs a cell for weight forward"),
        ("recipe: a; sums: fp64", "fp32@128"),
        ("recipe: a; sums: hopper@100", "multiple of 32"),
        ("recipe: a; schedule: moq target=1", "at least 2"),
        ("recipe: a; schedule: later", "for example 'moq"),
        ("recipe: a; scaler: layer_adaptive", "error backward"),
        ("recipe: a b", "letters"),
    ],
)
def test_what_is_no_recipe_is_refused_with_what_to_do(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("(", r"\(").replace(")", r"\)")):
        training.recipe(text)


@pytest.mark.parametrize(
    "cell",
    ["fp32", "fp8_e5m2 stochastic nonsaturate", "fp8_e4m3/tensor delayed1024", "binary/tensor scale=1",
     "nvfp4 stochastic hadamard16", "bf16 kahan"],
)  # fmt: skip
def test_cells_round_trip(cell: str) -> None:
    assert str(Cell.parse(cell)) == cell


@pytest.mark.parametrize(
    "scaler",
    [NoScale(), Static(8.0), Dynamic(), Dynamic(1024.0, interval=10, hysteresis=3), RisingFloor(period=7, share=0.01),
     LayerAdaptive(1000, layer=128.0)],
)  # fmt: skip
def test_scalers_round_trip(scaler: Dynamic) -> None:
    assert parse_scaler(str(scaler)) == scaler


@pytest.mark.parametrize("text", ["moq", "moq start=12 target=4 period=7", "boost share=0.01 format=bfp6"])
def test_schedules_round_trip(text: str) -> None:
    assert str(parse_schedule(text)) == text


class TestMoq:
    """DeepSpeed's schedule: the period doubles with every bit, and grows with curvature."""

    def test_bits_fall_at_doubling_intervals(self) -> None:
        moq = Moq(start=8, target=5, period=10, offset=100)
        # The first bit falls 10 steps after the offset, the second 20 later, the third 40 later.
        falls = [step for step in range(1, 400) if moq.bits(step) < moq.bits(step - 1)]
        assert falls == [110, 130, 170]
        assert moq.bits(10_000) == 5
        assert moq.finished() == 170

    def test_curvature_stretches_up_to_five_times(self) -> None:
        moq = Moq(start=8, target=6, period=10, offset=0)
        assert [moq.finished(curvature) for curvature in (0.0, 0.24, 0.25, 0.6, 1.0)] == [30, 30, 60, 90, 150]

    def test_finished_is_when_the_bits_are_there(self) -> None:
        moq = Moq(start=10, target=4, period=3, offset=5)
        for curvature in (0.0, 0.5, 1.0):
            step = moq.finished(curvature)
            assert moq.bits(step, curvature) == 4
            assert moq.bits(step - 1, curvature) == 5


def test_a_boost_covers_at_least_the_last_step() -> None:
    boost = parse_schedule("boost share=0.01 format=bfp6")
    assert isinstance(boost, Boost)
    assert boost.starts(1000) == 990
    assert boost.starts(10) == 9
