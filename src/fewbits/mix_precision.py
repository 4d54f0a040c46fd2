"""`fit`: a model in float32 into one that mixes it with bf16 or fp16, in one call.

::

    from fewbits import mix_precision
    from fewbits.config import MixedPrecisionConfig

    converted = mix_precision.fit(model, config=MixedPrecisionConfig())
    converted.save("./path/to/save/")

Without data, everything that can be small becomes small. With ``eval_func``, or a loader and a metric, groups return to
float32 until the score holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fewbits.budget import Budget
from fewbits.config import Goal, MixedPrecisionConfig
from fewbits.data import Dataset, DataSource, open_data
from fewbits.data.raw import look
from fewbits.errors import ExportError, MetricError, UsageError
from fewbits.evaluation import Direction, Evaluator
from fewbits.flow.mixed.fit import Mixing, plan_of, planned
from fewbits.flow.mixed.fit import fit as fit_model
from fewbits.flow.mixed.fitted import Fitted
from fewbits.flow.mixed.latency import fastest
from fewbits.flow.mixed.missing import missing
from fewbits.flow.mixed.onnx_result import ConvertedOnnx
from fewbits.flow.sessions import predictor
from fewbits.formats.scheme import FP32
from fewbits.mixing.deciding import decide_layer
from fewbits.models import (
    ModelSource,
    converted_layers,
    deferred,
    is_module,
    open_model,
    open_module,
    opened_module,
    proto_of,
    recorded,
)
from fewbits.models.protocol import Artifact, Model
from fewbits.plan import Plan
from fewbits.progress import Progress, Silent
from fewbits.targets import device_of, installed, open_target
from fewbits.targets.gpu_probe import gpus
from fewbits.targets.protocol import Target
from fewbits.verify.evaluators import open_evaluator

if TYPE_CHECKING:
    from fewbits.models import Converted, ConvertedLayers, Deferred, Module

_BATCH = 16
_SILENT = Silent()

EvalFunction = Callable[[object], float]
"""Takes the converted model (a module for a module, an ``onnx.ModelProto`` for ONNX), gives a score."""


@dataclass(frozen=True)
class _Judged:
    """What a conversion is judged by, as it was given."""

    eval_func: EvalFunction | None
    data: DataSource | None
    metric: str | None
    direction: Direction


def fit(
    model: ModelSource,
    config: MixedPrecisionConfig | None = None,
    *,
    eval_func: EvalFunction | None = None,
    eval_dataloader: DataSource | None = None,
    eval_metric: str | None = None,
    higher_is_better: bool = True,
    example_inputs: object = None,
    progress: Progress = _SILENT,
) -> Converted | ConvertedLayers | Deferred | ConvertedOnnx:
    """Convert `model` to mixed precision.

    Args:
        model: a ``torch.nn.Module``, or an ONNX model (path, bytes, ``ModelProto``); it is never changed.
        config: what becomes small, and what may be lost; see `MixedPrecisionConfig`.
        eval_func: gives the score of a model; groups return to float32, those that lose most first, until it holds.
        eval_dataloader: batches as tuples (inputs, labels), mappings or arrays, for `eval_metric`, and for what is
            measured on activations.
        eval_metric: a metric by name (``"accuracy"``), scored on `eval_dataloader`; without it nothing is scored there.
        higher_is_better: the direction of `eval_func`.
        example_inputs: arguments to export a module with, where there is no loader: a mapping by name, or the only one.
        progress: told of every step.

    Returns:
        A module for a module: it is called like the original. Without loader, example or `eval_func` its graph is made
        at the first call; one that cannot be exported is converted layer by layer. For ONNX an object with ``proto``.
        Both have ``save`` and ``report``.

    Raises:
        UsageError: what was given cannot be used; the subclass says what.
    """
    config = MixedPrecisionConfig() if config is None else config
    if eval_metric is not None and eval_dataloader is None:
        raise MetricError(f"the metric {eval_metric} needs data; give eval_dataloader")
    if eval_metric is not None and eval_func is not None:
        raise MetricError("give eval_func, or eval_metric with eval_dataloader, not both")
    if config.objective == Goal.LATENCY and eval_dataloader is None:
        raise UsageError("objective='latency' measures, and there is nothing to measure on; give eval_dataloader")
    direction = Direction.HIGHER if higher_is_better else Direction.LOWER
    judged = _Judged(eval_func, eval_dataloader, eval_metric, direction)
    if is_module(model):
        return _fit_module(model, config, judged, example_inputs, progress)
    opened = open_model(model)
    fitted = _fitted(opened, model, config, _onnx_target(config), judged, progress)
    return ConvertedOnnx(fitted.artifact, _notes(fitted))


def load(path: str | Path) -> Module:
    """The module that ``save`` wrote to `path`, a file or a folder. It holds code: load only what you trust. ONNX
    models are loaded by whatever reads ONNX.

    Raises ModelError if there is none.
    """
    return open_module(path)


def _fit_module(
    module: Module, config: MixedPrecisionConfig, judged: _Judged, example: object, progress: Progress
) -> Converted | ConvertedLayers | Deferred:
    raw = None if judged.data is None else look(judged.data)
    if raw is not None:
        # What can be read only once has been read by now.
        judged = replace(judged, data=raw.source)
        items = raw.items
    elif example is not None:
        items = (example,)
    else:
        items = () if judged.eval_func is None else recorded(module, judged.eval_func)
    layer = partial(decide_layer, config=config)
    if not items:
        ways = partial(_plan_for, config=config), config.precision, partial(_narrows, config=config), layer
        return deferred(module, *ways)
    target = None if config.target == "auto" else open_target(config.target)
    try:
        opened = open_model(module, items, "" if target is None else device_of(target.name))
    except ExportError as error:
        return _layer_by_layer(module, config, judged, error)
    target = open_target(f"torch:{opened.device}") if target is None else target
    fitted = _fitted(opened, module, config, target, judged, progress)
    return opened_module(fitted.artifact.content).with_notes(_notes(fitted))


def _layer_by_layer(
    module: Module, config: MixedPrecisionConfig, judged: _Judged, error: ExportError
) -> ConvertedLayers:
    """The way for a module without a graph: all or nothing, as the errors of its layers are not known."""
    found = converted_layers(module, partial(decide_layer, config=config))
    lines = [str(error), f"so it is converted layer by layer: {len(found.schemes)} layers in {config.precision}"]
    if judged.eval_func is not None:
        original, score = (float(judged.eval_func(one)) for one in (_kept(module), found))
        budget = Budget.parse(config.max_loss)
        lines.append(f"eval_func: {score:.6g} instead of {original:.6g}")
        if not budget.holds(budget.loss(original, score, judged.direction)):
            found = _kept(module)
            lines.append(f"that is beyond {config.max_loss}, so everything stays in fp32")
    elif judged.metric is not None:
        lines.append(f"{judged.metric} was not scored; give eval_func to have the result checked")
    return found.with_notes({"report.txt": "\n".join(lines) + "\n"})


def _kept(module: Module) -> ConvertedLayers:
    return converted_layers(module, lambda path, operator: FP32)


def _plan_for(model: Model, config: MixedPrecisionConfig) -> Plan:
    return plan_of(model, config, planned(model, config, of_module=True))


def _narrows(path: str, config: MixedPrecisionConfig) -> bool:
    """Whether the weights of the layer at `path` become small, whatever the graph."""
    by_list = config.rules or config.target_ops or config.fp32_ops or config.conditional_ops
    return config.cast_parameters and not by_list and not any(name.startswith(path) for name in config.excluded)


def _fitted(
    model: Model,
    source: ModelSource,
    config: MixedPrecisionConfig,
    target: Target | None,
    judged: _Judged,
    progress: Progress,
) -> Fitted:
    of_module = target is not None and target.name.startswith("torch")
    on_gpu = target is not None and ":cuda" in target.name
    data = None if judged.data is None else open_data(judged.data, model.inputs)
    lacks = (
        f"no runtime is installed here that computes ONNX models in {config.precision}; OpenVINO does"
        if target is None
        else missing(config.precision, target.machine, gpus() if on_gpu else ())
    )
    mixing = Mixing(model, config, target, lacks, of_module, data, direction=judged.direction, progress=progress)
    if config.objective == Goal.LATENCY and judged.data is not None:
        return fastest(mixing, source, judged.data, judged.metric)
    return fit_model(_with_score(mixing, judged))


def _with_score(mixing: Mixing, judged: _Judged) -> Mixing:
    if judged.eval_func is not None:
        view = _module if mixing.of_module else proto_of
        return replace(mixing, score=partial(_by_function, judged.eval_func, view), metric="eval_func")
    if judged.metric is None or mixing.data is None:
        return mixing
    target = mixing.target
    if target is None:
        raise MetricError(f"{mixing.lacks}, so that nothing can be scored; pip install 'fewbits[openvino]'")
    with target.open(mixing.model.original()) as session:
        reference = predictor(session, mixing.model.inputs)
    evaluator = open_evaluator(judged.metric, mixing.model.inputs, original=reference)
    score = partial(_by_metric, evaluator, target, mixing.model, mixing.data)
    return replace(mixing, score=score, metric=evaluator.name, direction=evaluator.direction)


def _by_function(function: EvalFunction, view: Callable[[Artifact], object], artifact: Artifact) -> float:
    score = function(view(artifact))
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise MetricError(f"eval_func gave {type(score).__name__}; it must give a number") from error


def _by_metric(evaluator: Evaluator, target: Target, model: Model, data: Dataset, artifact: Artifact) -> float:
    with target.open(artifact) as session:
        return evaluator(predictor(session, model.inputs), data, _BATCH).value


def _module(artifact: Artifact) -> object:
    return opened_module(artifact.content)


def _onnx_target(config: MixedPrecisionConfig) -> Target | None:
    """What runs small floats in ONNX models here; ONNX Runtime has no kernels for them on a CPU."""
    if config.target != "auto":
        return open_target(config.target)
    return open_target("openvino:cpu") if "openvino:cpu" in installed() else None


def _notes(fitted: Fitted) -> Mapping[str, str]:
    return {"plan.json": fitted.plan.to_json(), "report.txt": f"{fitted.report}\n"}


__all__ = ["MixedPrecisionConfig", "fit", "load"]
