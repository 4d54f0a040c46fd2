"""What `import fewbits` promises: the names, their documentation, and that it stays light."""

import inspect
import subprocess
import sys

import pytest

import fewbits
from fewbits import errors

FRAMEWORKS = ("onnx", "onnx_ir", "onnxruntime", "torch", "openvino", "numpy", "scipy", "pydantic", "typer", "rich")
PROMISED = {"tune", "inspect", "convert", "bench", "Result", "Plan", "Rule", "Scheme", "Budget", "Outcome"} | {
    "open_model",
    "open_target",
    "FewbitsError",
    "__version__",
}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_all_names_what_is_promised() -> None:
    assert set(fewbits.__all__) >= PROMISED
    assert fewbits.__all__ == sorted(set(fewbits.__all__))


def test_all_names_every_error() -> None:
    tree = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert {name for name in fewbits.__all__ if name.endswith("Error")} == tree


def test_all_is_the_table() -> None:
    names = [name for names in fewbits._HOMES.values() for name in names]
    assert sorted([*names, "__version__"]) == fewbits.__all__


@pytest.mark.parametrize("name", [name for name in fewbits.__all__ if name != "__version__"])
def test_every_name_resolves_and_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(fewbits, name))
    assert name in dir(fewbits)


def test_a_star_import_gives_every_name() -> None:
    assert run("from fewbits import *; print(tune.__name__, Result.__name__)") == "tune Result\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        fewbits.quantise  # noqa: B018


def test_the_version_is_the_distribution_s() -> None:
    assert run("import importlib.metadata as m; print(m.version('fewbits'))").strip() == fewbits.__version__


def test_import_loads_no_framework() -> None:
    loaded = run("import sys, fewbits; print(*sorted({name.partition('.')[0] for name in sys.modules}))").split()
    assert not set(loaded) & set(FRAMEWORKS)


def test_import_takes_under_300_milliseconds() -> None:
    code = "import time; start = time.perf_counter(); import fewbits; print(time.perf_counter() - start)"
    assert min(float(run(code)) for _ in range(3)) < 0.3
