"""Evaluators: a metric by name over a split, or the user's own function over its own data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from math import isclose
from types import FunctionType

import numpy as np

from fewbits.data.batches import Array, Arrays, Batch, Dataset
from fewbits.data.callables import load_callable, running
from fewbits.data.checks import conform
from fewbits.errors import MetricError
from fewbits.evaluation import Direction, Evaluator, Pooled, Predict, Scores
from fewbits.graph import Tensor
from fewbits.metric_rows import Rows
from fewbits.metrics import Metric, metric

UserPredict = Callable[[Arrays | Array], Arrays]
EvaluateFunction = Callable[[UserPredict], object]


@dataclass(frozen=True)
class MetricEvaluator:
    """`metric` of one model output over a split.

    `output` names the output, the model's first if ``None``. A metric without labels compares with `original`,
    whose outputs are computed once per split and batch size and then remembered.
    """

    metric: Metric
    output: str | None = None
    original: Predict | None = None
    _references: dict[tuple[str, int], tuple[Array, ...]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.needs_reference and self.original is None:
            raise MetricError(f"{self.metric} compares with the original model, which was not given")

    @property
    def name(self) -> str:
        """The metric's text form."""
        return str(self.metric)

    @property
    def direction(self) -> Direction:
        """Which way its score is better."""
        return self.metric.direction

    @property
    def uses_split(self) -> bool:
        """Always: a metric by name reads the split."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the original model's outputs instead of labels."""
        return not self.metric.needs_labels

    def __call__(self, predict: Predict, split: Dataset, batch: int) -> Scores:
        """The score over all samples of `split`.

        Raises:
            MetricError: no labels where they are needed, or outputs and labels that do not go together.
        """
        if split.samples == 0:
            raise MetricError(f"{self.metric} needs samples; the split is empty")
        if self.metric.needs_labels and not split.has_labels:
            raise MetricError(
                f"{self.metric} needs labels, and the data has none; add an array named 'labels', "
                "or use cosine or agreement, which compare with the original model"
            )
        rows = np.concatenate(list(self._rows(predict, split, batch)))
        value = self.metric.value(rows)
        if self.metric.per_sample:
            return Scores(value, split.samples, tuple(rows.tolist()))
        return Scores(value, split.samples, pooled=Pooled(str(self.metric), tuple(map(tuple, rows.tolist()))))

    def _rows(self, predict: Predict, split: Dataset, batch: int) -> Iterator[Rows]:
        references = self._remembered(split, batch) if self.needs_reference else repeat(None)
        seen = 0
        for given, remembered in zip(split.batches(batch), references, strict=False):
            reference = given.labels if remembered is None else remembered
            if reference is None:
                raise MetricError(f"{self.metric} needs labels, and a batch has none")
            rows = self.metric.rows(self._output(predict, given), reference, self.metric.threshold)
            if not self.metric.per_sample:
                rows[:, 0] += seen
            seen += given.samples
            yield rows

    def _remembered(self, split: Dataset, batch: int) -> tuple[Array, ...]:
        key = (split.digest, batch)
        if key not in self._references and self.original is not None:
            original, threshold = self.original, self.metric.threshold
            self._references[key] = tuple(
                self.metric.keep(self._output(original, given), threshold) for given in split.batches(batch)
            )
        return self._references[key]

    def _output(self, predict: Predict, given: Batch) -> Array:
        outputs = predict(given.inputs)
        name = next(iter(outputs)) if self.output is None else self.output
        if name not in outputs:
            raise MetricError(f"the model has no output {name!r}; it gives {', '.join(map(repr, outputs))}")
        array = outputs[name]
        if array.ndim == 0 or array.shape[0] != given.samples:
            others = ", ".join(repr(other) for other in outputs if other != name) or "none"
            raise MetricError(
                f"output {name!r} has shape {array.shape} for {given.samples} samples: its first axis is not the "
                f"samples. Name another output ({others}), or give your own evaluate function"
            )
        return array


@dataclass(frozen=True)
class FunctionEvaluator:
    """The user's ``evaluate(predict)``, which brings its own data and ignores the split.

    `predict` takes a mapping from input name to array (samples, …), or a single array for a model with one input,
    and gives a mapping from output name to array. The function gives a number, or one score per sample,
    always of the same samples in the same order.
    """

    function: EvaluateFunction
    inputs: tuple[Tensor, ...]
    name: str
    direction: Direction = Direction.HIGHER

    @property
    def uses_split(self) -> bool:
        """Never: the function brings its own data."""
        return False

    @property
    def needs_reference(self) -> bool:
        """Never: the function knows only the model it is given."""
        return False

    def __call__(self, predict: Predict, split: Dataset, batch: int) -> Scores:
        """What the function gives for `predict`.

        Raises:
            MetricError: it raised, or gave something that is not a finite number or finite per-sample scores.
        """
        with running(f"the evaluate function {self.name}", MetricError):
            result = self.function(_accepting(predict, self.inputs))
        return _scores(result, self.name)


def open_evaluator(
    spec: str | EvaluateFunction,
    inputs: Sequence[Tensor],
    *,
    direction: Direction | None = None,
    output: str | None = None,
    original: Predict | None = None,
) -> Evaluator:
    """The evaluator that `spec` asks for: a metric's name, ``module:function``, ``file.py:function``, or a function.

    `inputs` are the model's; `direction` is for functions (higher is better unless said);
    `output` names the output that a metric scores; `original` is what label-free metrics compare with.

    Raises:
        MetricError: unknown metric, no such function, or options that do not go with `spec`.
    """
    if isinstance(spec, str) and ":" not in spec:
        found = metric(spec)
        if direction not in (None, found.direction):
            raise MetricError(f"{found.name} is {found.direction}-is-better; leave the direction away")
        return MetricEvaluator(found, output, original if not found.needs_labels else None)
    if output is not None:
        raise MetricError("an evaluate function picks the model's output itself; leave the output's name away")
    if isinstance(spec, str):
        function, name = load_callable(spec, MetricError), spec
    elif callable(spec):
        function, name = spec, spec.__name__ if isinstance(spec, FunctionType) else type(spec).__name__
    else:
        raise MetricError(f"{type(spec).__name__} is neither the name of a metric nor a function")
    return FunctionEvaluator(function, tuple(inputs), name, direction or Direction.HIGHER)


def check_repeatable(evaluator: Evaluator, predict: Predict, split: Dataset, batch: int) -> Scores:
    """The score of the original model, evaluated twice to see that it stands still.

    Raises:
        MetricError: it changes between calls, is not finite, or the model gives NaN.
    """
    first = evaluator(_without_nan(predict), split, batch)
    second = evaluator(predict, split, batch)
    if not np.isfinite(first.value):
        raise MetricError(f"{evaluator.name} gives {first.value} for the original model; check labels and outputs")
    if len(first.per_sample) != len(second.per_sample):
        raise MetricError(
            f"{evaluator.name} gave {len(first.per_sample)} per-sample scores, then {len(second.per_sample)}, for the "
            "same model; it must score the same samples in the same order"
        )
    pairs = [(first.value, second.value), *zip(first.per_sample, second.per_sample, strict=True)]
    changed = next((pair for pair in pairs if not isclose(*pair, rel_tol=1e-6, abs_tol=1e-9)), None)
    if changed is not None:
        raise MetricError(
            f"{evaluator.name} changes between calls on the same model: {changed[0]:g}, then {changed[1]:g}. "
            "Fix its seeds and do not shuffle its data"
        )
    return first


def _accepting(predict: Predict, inputs: tuple[Tensor, ...]) -> UserPredict:
    """`predict` for the user's hands: single arrays accepted, names, shapes and types checked."""

    def predict_for_user(given: Arrays | Array) -> Arrays:
        if isinstance(given, Mapping):
            named: Mapping[str, object] = given
        elif len(inputs) == 1:
            named = {inputs[0].name: given}
        else:
            names = ", ".join(repr(tensor.name) for tensor in inputs)
            raise MetricError(f"predict needs a mapping from input name to array for the inputs {names}")
        return predict(conform(named, inputs, "predict").inputs)

    return predict_for_user


def _without_nan(predict: Predict) -> Predict:
    def predict_checked(inputs: Arrays) -> Arrays:
        outputs = predict(inputs)
        for name, array in outputs.items():
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise MetricError(f"the original model gives NaN in output {name!r}; check the data's preprocessing")
        return outputs

    return predict_checked


def _scores(result: object, name: str) -> Scores:
    wanted = "it must return a number or one score per sample"
    if result is None:
        raise MetricError(f"the evaluate function {name} returned None; {wanted}")
    if isinstance(result, str | bytes | bool | Mapping):
        raise MetricError(f"the evaluate function {name} returned {type(result).__name__} {result!r}; {wanted}")
    try:
        values = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MetricError(f"the evaluate function {name} returned {type(result).__name__}; {wanted}") from error
    if values.ndim > 1 or values.size == 0:
        raise MetricError(f"the evaluate function {name} returned an array of shape {values.shape}; {wanted}")
    if values.ndim == 0:
        if not np.isfinite(values):
            raise MetricError(f"the evaluate function {name} returned {values}; {wanted} that is finite")
        return Scores(float(values), samples=0)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise MetricError(f"the evaluate function {name} returned {values[bad[0]]} for sample {bad[0]}; {wanted}")
    return Scores(float(values.mean()), len(values), tuple(values.tolist()))
