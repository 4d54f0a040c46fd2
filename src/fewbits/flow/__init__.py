"""The spine: what the command line and Python callers start.

Where to look: ``tuning`` has the order of the stages, which are ``floats``, ``smooth``, ``pricing`` (``probing``),
``calibrate``, ``placing``, ``screening``, ``searching`` and ``accepting`` (``summing_up`` for the record).

* Before them: ``goal`` and ``effort`` read what is asked, ``setup`` opens it; stages share ``job`` and ``site``.
* Of the search: ``ranking`` (``unranked``), ``climbing``, ``looks``, ``allocating``; ``most_accurate`` for the least
  loss within limits; ``simulating``, ``forecast``, ``widths`` for hardware that is not at hand.
* Limits of what is served: ``limited``, ``bounded``; memory: ``memory``, ``footprint``.
* Limits of what a run takes: ``deadline``, ``pace``, ``schedule``.
* Of all: ``conversions``, ``sessions``, ``scratch``, ``names``, ``result``.
* Remedies: ``equalise``, ``smooth``, ``refining``, ``correcting``, ``ranging``; ``explaining`` tells of them, by
  ``remedies`` and ``products``.
* Other commands: ``benching``, ``inspecting``, ``running``, ``serving``.
"""

from fewbits.flow.benching import BenchReport, bench
from fewbits.flow.inspecting import Inspection, convert, elsewhere, inspect
from fewbits.flow.result import Result
from fewbits.flow.running import run
from fewbits.flow.serving import SaturationRow, saturation
from fewbits.flow.tuning import tune

__all__ = [
    "BenchReport",
    "Inspection",
    "Result",
    "SaturationRow",
    "bench",
    "convert",
    "elsewhere",
    "inspect",
    "run",
    "saturation",
    "tune",
]
