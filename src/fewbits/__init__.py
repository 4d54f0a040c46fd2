"""fewbits finds the fewest bits that a model can bear, by measuring.

The public names are resolved on first use, so that ``import fewbits`` itself stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fewbits import __about__

if TYPE_CHECKING:
    from fewbits.budget import Budget
    from fewbits.errors import (
        DataError,
        DivergenceError,
        FewbitsError,
        FormatError,
        MetricError,
        ModelError,
        PlanError,
        RecipeError,
        RunError,
        SchemeError,
        StorageError,
        TargetError,
        ToolError,
        UsageError,
        WorkerError,
    )
    from fewbits.flow import Result, bench, convert, emulate, export_onnx, inspect, plan_for_module, plan_for_onnx, tune
    from fewbits.formats.files import load_tensors, save_tensors
    from fewbits.formats.kernels.autograd import fake_quantize_ste
    from fewbits.formats.qtensor import QTensor
    from fewbits.formats.quantize import dequantize, fake_quantize, quantize
    from fewbits.formats.rounding import NoiseKey
    from fewbits.formats.scheme import Scheme
    from fewbits.models import open_model, open_module, package
    from fewbits.outcome import Outcome
    from fewbits.plan import Plan
    from fewbits.space import Rule
    from fewbits.targets import open_target

__version__ = __about__.VERSION

__all__ = [
    "Budget",
    "DataError",
    "DivergenceError",
    "ExportError",
    "FewbitsError",
    "FormatError",
    "MetricError",
    "ModelError",
    "NoiseKey",
    "Outcome",
    "Plan",
    "PlanError",
    "QTensor",
    "RecipeError",
    "Result",
    "Rule",
    "RunError",
    "Scheme",
    "SchemeError",
    "StorageError",
    "TargetError",
    "ToolError",
    "UsageError",
    "WorkerError",
    "__version__",
    "bench",
    "convert",
    "dequantize",
    "emulate",
    "export_onnx",
    "fake_quantize",
    "fake_quantize_ste",
    "inspect",
    "load_tensors",
    "open_model",
    "open_module",
    "open_target",
    "package",
    "plan_for_module",
    "plan_for_onnx",
    "quantize",
    "save_tensors",
    "tune",
]

_HOMES = {
    "fewbits.budget": ("Budget",),
    "fewbits.errors": (
        "DataError",
        "ExportError",
        "DivergenceError",
        "FewbitsError",
        "FormatError",
        "MetricError",
        "ModelError",
        "PlanError",
        "RecipeError",
        "RunError",
        "SchemeError",
        "StorageError",
        "TargetError",
        "ToolError",
        "UsageError",
        "WorkerError",
    ),
    "fewbits.flow": (
        "Result",
        "bench",
        "convert",
        "emulate",
        "export_onnx",
        "inspect",
        "plan_for_module",
        "plan_for_onnx",
        "tune",
    ),
    "fewbits.formats.files": ("load_tensors", "save_tensors"),
    "fewbits.formats.kernels.autograd": ("fake_quantize_ste",),
    "fewbits.formats.qtensor": ("QTensor",),
    "fewbits.formats.quantize": ("dequantize", "fake_quantize", "quantize"),
    "fewbits.formats.rounding": ("NoiseKey",),
    "fewbits.formats.scheme": ("Scheme",),
    "fewbits.models": ("open_model", "open_module", "package"),
    "fewbits.outcome": ("Outcome",),
    "fewbits.plan": ("Plan",),
    "fewbits.space": ("Rule",),
    "fewbits.targets": ("open_target",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


# Hidden from type checkers, which would take every misspelt name for an object.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'fewbits' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
