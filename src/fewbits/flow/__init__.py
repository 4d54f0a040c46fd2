"""The spine: what the command line and Python callers start.

Where to look: ``tuning`` has the order of the stages, which are ``floats``, ``remedies`` (what is done to the model
before it is quantised), ``pricing`` (``probing``), ``calibrate``, ``placing``, ``screening``, ``searching`` and
``accepting`` (``summing_up`` for the record).

* Before them: ``goals`` reads what is asked, ``setup`` opens it; stages share ``job`` and ``site``.
* Of the search: ``ranking`` (``unranked``), ``climbing``, ``looks``, ``allocating``; ``most_accurate`` for the least
  loss within limits; ``memory``, ``footprint`` where memory counts; ``hardware`` for what is not at hand.
* What a run takes, and its limits: ``time``.
* Of all: ``observing``, ``conversions``, ``sessions``, ``shelf``, ``scratch``, ``saving``, ``names``, ``result``.
* Other commands: ``benching``, ``emulating``, ``inspecting``, ``running``, ``serving``, ``transferring``.
"""

from fewbits.flow.benching import BenchReport, bench
from fewbits.flow.emulating import emulate
from fewbits.flow.inspecting import Inspection, convert, elsewhere, inspect
from fewbits.flow.result import Result
from fewbits.flow.running import run
from fewbits.flow.saving import save
from fewbits.flow.serving import SaturationRow, saturation
from fewbits.flow.transferring import export_onnx, plan_for_module, plan_for_onnx
from fewbits.flow.tuning import tune

__all__ = [
    "BenchReport",
    "Inspection",
    "Result",
    "SaturationRow",
    "bench",
    "convert",
    "elsewhere",
    "emulate",
    "export_onnx",
    "inspect",
    "plan_for_module",
    "plan_for_onnx",
    "run",
    "saturation",
    "save",
    "tune",
]
