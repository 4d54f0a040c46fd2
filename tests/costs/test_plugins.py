"""Cost models by name, and packages that bring their own: good ones, and bad ones that must not go unnamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewbits.costs.counting import BitOperations, PeakMemory, Size
from fewbits.costs.energy import Energy
from fewbits.costs.ipu import InnerProductUnit
from fewbits.costs.model import CostModel, LayerSpec
from fewbits.costs.mpic import Mpic, MpicEnergy
from fewbits.costs.plugins import cost_model, cost_models
from fewbits.costs.roofline import Roofline
from fewbits.errors import ToolError, UsageError

LAYER = LayerSpec("stem", "conv", 100, 10, 1, 1, 1, 1)

NPU = """
from dataclasses import dataclass

@dataclass
class Npu:
    factor: float = 1.0
    unit: str = "cycles"
    additive: bool = True
    def supports(self, op, w, a):
        if op == "bad":
            return "perhaps"
        return w == 8
    def cost(self, layer, w, a, o):
        return {4: float("nan"), 3: -1.0, 2: "cheap", 1: 1 // 0 if w == 1 else 0}.get(w, layer.macs * self.factor)

def model(argument):
    return Npu(float(argument or 1))

def raises(argument):
    raise KeyError("no licence")

def none(argument):
    return None

def textual(argument):
    return Npu(additive="yes")

instance = Npu()
"""


class Packages:
    """Installs packages with cost models, as an installer would."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def install(self, name: str, module: str, points: dict[str, str]) -> None:
        (self._place / f"{name}.py").write_text(module)
        info = self._place / f"{name}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\n")
        lines = [f"{point} = {name}:{attribute}" for point, attribute in points.items()]
        (info / "entry_points.txt").write_text("[fewbits.cost_models]\n" + "\n".join(lines) + "\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Packages(tmp_path)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("size", Size()),
        ("bops", BitOperations()),
        ("ram", PeakMemory()),
        ("mpic", Mpic()),
        ("mpic-energy", MpicEnergy()),
        ("ipu", InnerProductUnit()),
        ("energy", Energy()),
        ("roofline:6.4e13,2e10", Roofline(6.4e13, 2e10)),
    ],
)
def test_what_is_built_in(name: str, model: CostModel) -> None:
    assert cost_model(name) == model
    assert name.partition(":")[0] in cost_models()


def test_a_table_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    path.write_text("layer,w,a,cost\nstem,8,8,12.5\n")
    assert cost_model(f"table:{path}").cost(LAYER, 8, 8, 8) == 12.5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cycels", "choose bops, energy, ipu"),
        ("", "choose bops"),
        ("roofline", "give bit operations and bytes per second"),
        ("roofline:1e12", "give bit operations and bytes per second"),
        ("roofline:fast,wide", "give bit operations and bytes per second"),
        ("roofline:0,1", "positive"),
        ("size:8", "takes no argument"),
        ("table", "give the file"),
    ],
)
def test_names_that_are_none(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cost_model(name)


def test_a_package_s_model_is_found_and_given_its_argument(packages: Packages) -> None:
    packages.install("npu_one", NPU, {"npu": "model"})
    assert "npu" in cost_models()
    model = cost_model("npu:2.5")
    assert isinstance(model, CostModel)
    assert (model.unit, model.additive) == ("cycles", True)
    assert model.supports("conv", 8, 8) and not model.supports("conv", 4, 8)
    assert model.cost(LAYER, 8, 8, 8) == 250.0
    assert cost_model("npu").cost(LAYER, 8, 8, 8) == 100.0


def test_names_are_listed_without_loading_anything(packages: Packages) -> None:
    packages.install("npu_broken", "raise RuntimeError('loaded')", {"npu": "model"})
    assert "npu" in cost_models()


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("raises", "raised KeyError: 'no licence'"),
        ("none", "gave a NoneType, which is no cost model"),
        ("instance", "is a Npu; it has to be a function"),
        ("missing", "raised AttributeError"),
        ("textual", "additive 'yes'"),
    ],
)
def test_a_package_that_gives_no_model_is_named(packages: Packages, attribute: str, said: str) -> None:
    packages.install("npu_two", NPU, {"npu": attribute})
    with pytest.raises(ToolError, match=f"the cost model 'npu' of npu_two 2.5.*{said}"):
        cost_model("npu")
    # Nobody else suffers.
    assert cost_model("size") == Size()


def test_a_package_that_cannot_be_imported_is_named(packages: Packages) -> None:
    packages.install("npu_three", "import no_such_module_at_all", {"npu": "model"})
    with pytest.raises(ToolError, match=r"of npu_three 2\.5 raised ModuleNotFoundError") as caught:
        cost_model("npu")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("w", "said"),
    [(4, "stem costs nan"), (3, "stem costs -1.0"), (2, "stem costs 'cheap'"), (1, "raised ZeroDivisionError")],
)
def test_a_wrong_cost_is_not_believed(packages: Packages, w: int, said: str) -> None:
    packages.install("npu_four", NPU, {"npu": "model"})
    model = cost_model("npu")
    with pytest.raises(ToolError, match=f"the cost model 'npu' of npu_four 2.5.*{said}"):
        model.cost(LAYER, w, 8, 8)


def test_a_wrong_answer_to_what_is_supported_is_not_believed(packages: Packages) -> None:
    packages.install("npu_five", NPU, {"npu": "model"})
    with pytest.raises(ToolError, match=r"npu_five 2\.5 says 'perhaps'"):
        cost_model("npu").supports("bad", 8, 8)


def test_a_name_that_two_packages_offer_is_an_error(packages: Packages) -> None:
    packages.install("npu_six", NPU, {"npu": "model"})
    packages.install("npu_seven", NPU, {"npu": "model"})
    with pytest.raises(ToolError, match=r"'npu' is offered by npu_s.* and npu_s"):
        cost_model("npu")


def test_nobody_takes_the_place_of_what_is_built_in(packages: Packages) -> None:
    packages.install("npu_eight", NPU, {"size": "model"})
    with pytest.raises(ToolError, match="'size' is offered by fewbits itself and npu_eight"):
        cost_model("size")
