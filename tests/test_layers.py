"""The rooms of docs/design.md: which may import which, who may see a framework, and where a lazy import may hide."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "fewbits"

WORDS = {"errors", "outcome", "measurement", "machine", "progress", "__about__"}
"""Vocabulary without behaviour: every room may speak it."""

DESCRIPTIONS = {"formats", "graph", "grouping", "eligibility", "rescaling", "space", "placement", "plan"}
"""What a model is and what is decided about it, free of any framework."""

SEAMS = {"models.protocol", "targets.protocol"}
"""What the stages know of models and runtimes: never more than this."""

TABLES = {"sensitivity.table"}
"""What the search knows of measuring: its results."""

MEASURING = {"costs.measured"}
"""What of the costs runs models: the rest of the room is values, files and arithmetic."""

TORCH_ARTEFACT = {
    "models.pytorch.call_form",
    "models.pytorch.converted",
    "models.pytorch.inference",
    "models.pytorch.retracing",
    "models.torch_ops.executed",
    "models.torch_ops.kernels",
    "models.torch_ops.profiling",
}
"""What a PyTorch target opens: an artefact of that framework is a module, and needs its class; and how its kernels are
read back."""

PARTS = SEAMS | TABLES | MEASURING | TORCH_ARTEFACT
"""Modules of a folder that count as rooms of their own: what others may see of it, or what sees more than the rest."""

# Room → the rooms that it may import besides WORDS and itself. A room is a module or a folder
# directly under fewbits, or one of PARTS.
ALLOWED: Mapping[str, set[str]] = {
    "__about__": set(),
    "errors": set(),
    "files": set(),
    "outcome": set(),
    "measurement": set(),
    "machine": set(),
    "progress": set(),
    "formats": set(),
    "graph": set(),
    "grouping": {"graph"},
    "eligibility": {"formats", "graph", "grouping"},
    "rescaling": {"graph", "grouping"},
    "space": {"formats", "grouping"},
    "placement": {"formats", "graph", "grouping"},
    "plan": {"formats"},
    "transfer": {"formats", "graph", "grouping", "placement", "plan", "rescaling"},
    "smoothing": set(),
    "masking": {"graph"},
    "saturation": set(),
    "means": set(),
    "codes": {"formats"},
    "dialect": set(),
    "data": {"graph"},
    "evaluation": {"data"},
    "metric_rows": {"data"},
    "metrics": {"data", "evaluation", "metric_rows"},
    "budget": {"evaluation"},
    "amounts": set(),
    "limits": {"amounts"},
    "record": {"evaluation", "limits"},
    "models.protocol": DESCRIPTIONS | {"codes", "data", "transfer"},
    "models.pytorch.call_form": set(),
    "models.pytorch.inference": {"files"},
    "models.torch_ops.executed": {"models.torch_ops.kernels", "models.torch_ops.profiling"},
    "models.torch_ops.kernels": set(),
    "models.torch_ops.profiling": set(),
    "models.pytorch.retracing": set(),
    "models.pytorch.converted": {"data", "graph", "models.pytorch.call_form", "models.pytorch.inference"}
    | {"models.pytorch.retracing"}
    | {"models.protocol"},
    "config": {"budget"},
    "mixing": {"config", "formats", "graph", "grouping", "plan"},
    "models": DESCRIPTIONS
    | TORCH_ARTEFACT
    | {"codes", "files", "dialect", "data", "means", "models.protocol", "refine", "smoothing", "transfer"},
    "targets.protocol": DESCRIPTIONS | {"data", "models.protocol"},
    "targets": DESCRIPTIONS | {"costs", "data"} | SEAMS | TORCH_ARTEFACT,
    "attribution": DESCRIPTIONS | {"targets.protocol"},
    "calibration": {"formats", "data"},
    "refine": {"formats"},
    "sensitivity.table": set(),
    "sensitivity": {"data", "evaluation"} | TABLES,
    "costs": {"formats", "graph", "grouping", "placement"},
    "costs.measured": DESCRIPTIONS | SEAMS | {"attribution", "costs", "data", "smoothing"},
    "search": set(),
    "verify": {"graph", "amounts", "data", "evaluation", "metrics", "metric_rows", "budget", "limits", "record"},
    "benchmark": {"data", "targets", "verify"},
    "memory": {"benchmark", "data", "targets", "verify"},
    "store": {"codes", "files", "record"},
    "weights": {"data", "models"},
    "comparison": {"formats", "data", "graph"},
    "report": {"formats", "comparison", "native", "record"},
    "flow": DESCRIPTIONS
    | SEAMS
    | {"data", "dialect", "evaluation", "metrics", "budget", "record", "models", "targets", "calibration"}
    | {
        "amounts",
        "attribution",
        "config",
        "mixing",
        "native",
        "files",
        "codes",
        "costs",
        "limits",
        "masking",
        "means",
        "saturation",
        "search",
        "refine",
        "sensitivity",
        "smoothing",
        "transfer",
        "verify",
    }
    | {"benchmark", "memory", "store", "report"}
    | TABLES
    | MEASURING,
    "doctor": DESCRIPTIONS | SEAMS | {"benchmark", "targets", "models", "costs"} | MEASURING,
    "mix_precision": {
        "budget",
        "config",
        "formats",
        "mixing",
        "data",
        "evaluation",
        "flow",
        "models",
        "models.protocol",
        "plan",
        "targets",
    }
    | {"targets.protocol", "verify"},
    "native": {"formats"},
    "demo": set(),
    "training": {"formats", "plan"},
    "console": {"report"},
    "cli": DESCRIPTIONS
    | {"flow", "console", "report", "store", "doctor", "demo", "data", "metrics", "budget", "record", "evaluation"}
    | {"benchmark", "comparison", "costs", "native", "targets", "weights"},
}

FRAMEWORKS = {"onnx", "onnx_ir", "onnxruntime", "google", "openvino", "tensorrt", "torch", "tensorflow", "transformers"}
COMPILERS = {"numba", "llvmlite", "triton"}
FRAMEWORK_ROOMS = ("models", "targets", "training", "formats.kernels")
ONLY_IN = {
    "rich": {"report", "console", "cli"},
    "typer": {"cli"},
    "matplotlib": {"report"},
    "sqlite3": {"costs"},
    "ml_dtypes": {"models"},
    "openvino": {"targets"},
}
"""Libraries with a place of their own → the rooms that may import them."""

# The doors: choosing an implementation is their work, so they import it when it is chosen.
DOORS = {"models", "targets", "data", "cli", "formats.kernels"}


@dataclass(frozen=True)
class Import:
    """One imported module, `inside` a function or not."""

    module: str
    inside: bool
    line: int


def modules() -> Mapping[str, Path]:
    """Module name without the leading ``fewbits.`` (``""`` for the package itself) → file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str, known: Mapping[str, Path] = MODULES) -> Iterator[Import]:
    """Every import in `source`, wherever it stands; ``from fewbits import plan`` names the module."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.append(whole if whole.removeprefix("fewbits.") in known else str(node.module))
        for name in names:
            yield Import(name, id(node) in inside, node.lineno)


def room(module: str) -> str:
    """The room of a module of fewbits, given without the leading ``fewbits.``."""
    return module if module in PARTS else module.partition(".")[0]


def internal(module: str) -> str | None:
    """`module` without the leading ``fewbits.``, or ``None`` if it is not of this package."""
    return module.removeprefix("fewbits").removeprefix(".") if module.partition(".")[0] == "fewbits" else None


IMPORTS = {name: tuple(imports(path.read_text())) for name, path in MODULES.items()}
# The package itself only names where its public names live; it imports nothing when it is imported.
INNER = {name: found for name, found in IMPORTS.items() if name}


def where(name: str, found: Import) -> str:
    return f"{MODULES[name].relative_to(PACKAGE)}:{found.line} imports {found.module}"


def cycle(edges: Mapping[str, set[str]]) -> list[str]:
    """One import cycle, or nothing."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_has_a_row() -> None:
    assert {room(name) for name in INNER} <= set(ALLOWED)


@pytest.mark.parametrize("name", sorted(INNER))
def test_a_room_imports_only_what_its_row_allows(name: str) -> None:
    allowed = ALLOWED[room(name)] | WORDS | {room(name)}
    broken = [
        where(name, found)
        for found in INNER[name]
        if (target := internal(found.module)) is not None and room(target) not in allowed
    ]
    assert not broken, f"{room(name)} may import {sorted(allowed)}: {broken}"


def test_the_insides_of_models_are_seen_by_models_alone() -> None:
    broken = [
        where(name, found)
        for name, names in INNER.items()
        for found in names
        if (target := internal(found.module)) is not None
        if target.startswith("models.") and target not in SEAMS and name.partition(".")[0] != "models"
        if target not in TORCH_ARTEFACT or not name.startswith("targets.pytorch")
    ]
    assert not broken


def test_frameworks_stay_in_their_rooms() -> None:
    broken = [
        where(name, found)
        for name, names in IMPORTS.items()
        for found in names
        if found.module.partition(".")[0] in FRAMEWORKS | COMPILERS
        if not f"{name}.".startswith(tuple(f"{allowed}." for allowed in FRAMEWORK_ROOMS))
    ]
    assert not broken


def test_the_seams_name_no_framework() -> None:
    assert not [where(n, f) for n in SEAMS for f in INNER[n] if f.module.partition(".")[0] in FRAMEWORKS]


def test_libraries_with_a_place_of_their_own_stay_there() -> None:
    broken = [
        where(name, found)
        for name, names in IMPORTS.items()
        for found in names
        if room(name) not in ONLY_IN.get(found.module.partition(".")[0], {room(name)})
    ]
    assert not broken


def test_imports_hide_in_functions_only_at_the_doors() -> None:
    broken = [
        where(name, found)
        for name, names in IMPORTS.items()
        for found in names
        if found.inside and name not in DOORS and room(name) != "cli"
        # A module that only one operating system has cannot be imported at the top.
        if found.module not in {"fcntl", "resource", "msvcrt"}
    ]
    assert not broken


def _is_around(target: str, name: str) -> bool:
    """Whether the package of `target` is one around `name`."""
    return name.startswith(f"{target.rpartition('.')[0]}.")


def test_there_is_no_import_cycle() -> None:
    edges: dict[str, set[str]] = {name: set() for name in INNER}
    for name, names in INNER.items():
        for found in names:
            target = internal(found.module)
            if not target or (found.inside and name in DOORS):
                continue
            edges[name].add(target)
            # Importing a module runs the packages around it first; those around the importing one have run.
            parents = [target.rpartition(".")[0]] if "." in target and not _is_around(target, name) else []
            edges[name].update(parent for parent in parents if room(name) != room(parent) and name != parent)
    assert not cycle(edges)


def test_only_declared_libraries_are_imported() -> None:
    declared = {
        "numpy",
        "scipy",
        "pydantic",
        "typer",
        "rich",
        "PIL",
        "safetensors",
        "matplotlib",
        "ml_dtypes",
        "fewbits",
    }
    imported = {found.module.partition(".")[0] for names in IMPORTS.values() for found in names}
    assert imported <= declared | FRAMEWORKS | COMPILERS | sys.stdlib_module_names


class TestTheChecks:
    """The checks themselves see what they are there to see."""

    def test_an_import_inside_a_method_is_seen(self) -> None:
        source = "class A:\n    def f(self):\n        if True:\n            import onnx.helper\n"
        assert list(imports(source)) == [Import("onnx.helper", inside=True, line=4)]

    def test_a_module_imported_from_its_package_is_the_module(self) -> None:
        assert [found.module for found in imports("from fewbits import plan, nothing")] == ["fewbits.plan", "fewbits"]

    def test_a_cycle_is_seen(self) -> None:
        assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
        assert not cycle({"a": {"b"}, "b": {"c"}, "c": set()})

    def test_a_seam_is_a_room_of_its_own(self) -> None:
        assert room("targets.protocol") == "targets.protocol"
        assert room("targets.worker") == "targets"

    def test_what_measures_costs_sees_more_than_their_room(self) -> None:
        assert room("costs.measured") == "costs.measured"
        assert room("costs.cache") == "costs"
        assert not SEAMS & ALLOWED["costs"]
