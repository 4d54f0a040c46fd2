"""The spine: what the command line and Python callers start."""

from fewbits.flow.benching import BenchReport, bench
from fewbits.flow.inspecting import Inspection, convert, elsewhere, inspect
from fewbits.flow.result import Result
from fewbits.flow.running import run
from fewbits.flow.tuning import tune

__all__ = ["BenchReport", "Inspection", "Result", "bench", "convert", "elsewhere", "inspect", "run", "tune"]
