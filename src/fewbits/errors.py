"""Every error that fewbits raises on purpose.

::

    FewbitsError
    ├── UsageError            what was given cannot be used; nothing was changed   (exit code 2)
    │   ├── ModelError        not a model, truncated, NaN weights, already quantised
    │   │   └── ExportError   a PyTorch module that cannot be traced
    │   ├── DataError         names, shapes, NaN, empty: says what was expected
    │   ├── MetricError       unknown metric, or an evaluate function that misbehaves
    │   ├── PlanError         a plan that does not fit the model, or is not a plan
    │   ├── FormatError       a number format that is unknown, impossible, or cannot hold what it is given
    │   ├── SchemeError       a scheme text that cannot be read
    │   ├── RecipeError       a training recipe that is unknown, cannot be read, or is not the checkpoint's
    │   ├── TargetError       unknown or uninstalled runtime
    │   └── RunError          the run directory exists, or belongs to another model
    └── ToolError             something outside failed while working               (exit code 1)
        ├── StorageError      disk full, permission
        ├── DivergenceError   a training whose gradients stay non-finite whatever the loss scale
        └── WorkerError       a measuring process died or did not answer

A message says what is wrong, what was expected, and what to do next.
"""

from typing import ClassVar


class FewbitsError(Exception):
    """Root of all errors raised on purpose. `exit_code` is the command line's."""

    exit_code: ClassVar[int] = 1


class UsageError(FewbitsError):
    """What the caller gave cannot be used."""

    exit_code: ClassVar[int] = 2


class ModelError(UsageError):
    """The model cannot be read or cannot be worked on."""


class ExportError(ModelError):
    """A PyTorch module cannot be traced to a graph."""


class DataError(UsageError):
    """The data does not fit the model, or is not usable."""


class MetricError(UsageError):
    """The metric is unknown or does not give a usable score."""


class PlanError(UsageError):
    """The plan cannot be read or does not belong to this model."""


class FormatError(UsageError):
    """A number format is unknown, cannot exist, or cannot hold what it is given."""


class SchemeError(UsageError):
    """A scheme text cannot be read."""


class RecipeError(UsageError):
    """A recipe for training is unknown, cannot be read, or differs from the one of a checkpoint."""


class TargetError(UsageError):
    """The runtime is unknown or not installed."""


class RunError(UsageError):
    """The run directory cannot be used as asked."""


class ToolError(FewbitsError):
    """Something outside fewbits failed while it was working."""


class StorageError(ToolError):
    """A file could not be written."""


class DivergenceError(ToolError):
    """A training gives non-finite gradients whatever its loss scale."""


class WorkerError(ToolError):
    """A measuring process died or did not answer."""
