"""From a model and a configuration to the model in mixed precision, with as much of it small as the accuracy bears."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from math import isfinite

from fewbits.benchmark import Candidate, compare
from fewbits.budget import Budget
from fewbits.config import MixedPrecisionConfig, OnMissing
from fewbits.data import Dataset
from fewbits.data.batches import Batch
from fewbits.eligibility import module_obstacle, obstacle
from fewbits.errors import DataError, MetricError, ModelError, TargetError
from fewbits.evaluation import Direction
from fewbits.flow.mixed.fitted import Fitted, MixedReport
from fewbits.flow.mixed.harm import harms
from fewbits.flow.mixed.ranges import beyond
from fewbits.flow.scratch import scratch_file, scratch_folder
from fewbits.flow.sessions import call_inputs
from fewbits.formats.scheme import FP32
from fewbits.grouping import group
from fewbits.measurement import Interval
from fewbits.mixing.deciding import Decided, decide
from fewbits.models.protocol import Artifact, Model
from fewbits.plan import Choice, Plan
from fewbits.progress import Progress, Silent
from fewbits.search.descent import Descent
from fewbits.search.problem import Finished, Rung, Trial
from fewbits.targets.protocol import Target

_SILENT = Silent()
_LOOKED_AT = 16
_CALIBRATED_ON = 64
_ROUNDS = 8
_TOO_MUCH = "it loses too much accuracy in {precision}"

Score = Callable[[Artifact], float]


@dataclass(frozen=True)
class Mixing:
    """What is converted, and by what it is judged. `score` gives an artefact its score, by the metric `metric`; `data`
    are what ranges, errors and speed are taken on; `target` is where, ``None`` where nothing runs the result here,
    `lacks` what the machine is missing. `of_module`: PyTorch's rules of what can be small hold, not ONNX's."""

    model: Model
    config: MixedPrecisionConfig
    target: Target | None
    lacks: str
    of_module: bool
    data: Dataset | None = None
    score: Score | None = None
    metric: str = ""
    direction: Direction = Direction.HIGHER
    progress: Progress = _SILENT


def fit(mixing: Mixing) -> Fitted:
    """Convert, and if the score suffers return groups to float32, those that lose most first (bracketed, in at most
    `config.max_trials` evaluations).

    Raises:
        TargetError: the machine lacks what the precision needs, and the configuration says that this is an error.
        MetricError: the score of the original is not finite, or a relative loss is asked for and it is 0.
    """
    config, model = mixing.config, mixing.model
    if mixing.lacks and config.on_missing == OnMissing.ERROR:
        raise TargetError(f"{mixing.lacks}; choose on_missing='emulate' or 'keep_float', or another precision")
    if mixing.lacks and config.on_missing == OnMissing.KEEP_FLOAT:
        nothing = _kept_float(mixing)
        return _finished(mixing, nothing, (), None, 0)
    decided = planned(model, config, of_module=mixing.of_module)
    remarks = [f"{word} matches nothing in this model" for word in decided.unmatched]
    if mixing.lacks:
        remarks.append(f"{mixing.lacks}: it is computed by conversion, and slower than float32 here")
    decided = _without_overflow(mixing, decided)
    if mixing.score is None:
        return _finished(mixing, decided, remarks, None, 0)
    return _searched(mixing, decided, remarks)


def planned(model: Model, config: MixedPrecisionConfig, *, of_module: bool) -> Decided:
    """What `config` makes of every group of `model`, before anything is measured."""
    can = partial(module_obstacle if of_module else obstacle, model.graph)
    return decide(model.graph, group(model.graph), config, can)


def plan_of(model: Model, config: MixedPrecisionConfig, decided: Decided, target: str = "") -> Plan:
    """`decided` as a plan."""
    return Plan(
        model.sha256,
        decided.choices,
        {},
        target=target,
        kept=decided.kept,
        wide_weights=not config.cast_parameters,
    )


def _kept_float(mixing: Mixing) -> Decided:
    names = [made.name for made in group(mixing.model.graph)]
    return Decided({name: Choice(str(FP32), mixing.lacks) for name in names}, (), ())


def _without_overflow(mixing: Mixing, decided: Decided) -> Decided:
    if mixing.config.precision != "fp16" or mixing.data is None:
        return decided
    mixing.progress.stage("check the range of fp16")
    few = mixing.data.take(range(min(_CALIBRATED_ON, mixing.data.samples)))
    over = beyond(mixing.model, group(mixing.model.graph), few.batches(_LOOKED_AT))
    choices = {name: Choice(str(FP32), over[name]) if name in over else one for name, one in decided.choices.items()}
    kept = [name for name in over if name not in choices]
    return Decided(choices, tuple(dict.fromkeys([*decided.kept, *kept])), decided.unmatched)


def _searched(mixing: Mixing, decided: Decided, remarks: Sequence[str]) -> Fitted:
    """The conversion with the fewest groups in float32 whose score holds."""
    score = mixing.score
    assert score is not None
    budget = Budget.parse(mixing.config.max_loss)
    mixing.progress.stage("evaluate", 1 + mixing.config.max_trials)
    original = score(mixing.model.original())
    if not isfinite(original):
        raise MetricError(f"{mixing.metric} gives {original} for the original model; check the data")
    budget.scale(original)
    mixing.progress.advance(f"original {original:.6g}")
    order: Mapping[str, float] | None = None
    strategy = Descent(mixing.config.max_trials)
    count = len(decided.low)
    ladder = [Rung({}, 1.0, 0.0), *[Rung({}, 1.0 - (place + 1) / count, 0.0) for place in range(count)]]
    history: list[Trial] = []
    scores: dict[int, float] = {}
    state = strategy.init(ladder, budget.amount)
    while True:
        step = strategy.propose(state, history)
        if isinstance(step, Finished):
            break
        if step.place and order is None:
            order = _most_harmful_first(mixing, decided)
            state = strategy.init(_ladder(order), budget.amount)
        tried = _reverted(mixing, decided, list(order or {})[: step.place])
        scores[step.place] = score(mixing.model.converted(plan_of(mixing.model, mixing.config, tried, _name(mixing))))
        loss = budget.loss(original, scores[step.place], mixing.direction)
        history.append(Trial(step.place, loss, budget.holds(loss)))
        mixing.progress.advance(f"{len(tried.low)} groups in {mixing.config.precision}: {scores[step.place]:.6g}")
    if not step.found:
        remarks = [*remarks, f"no conversion that was evaluated holds {mixing.config.max_loss}: the original is kept"]
        nothing = _reverted(mixing, decided, decided.low)
        return _finished(mixing, nothing, remarks, (original, original), len(history))
    best = step.best.place
    found = _reverted(mixing, decided, list(order or {})[:best])
    return _finished(mixing, found, remarks, (original, scores[best]), len(history))


def _ladder(order: Mapping[str, float]) -> list[Rung]:
    """The share of the harm that is left when the first groups of `order` are back in float32; errors add up."""
    known = sum(harm for harm in order.values() if isfinite(harm)) or 1.0
    left = [*accumulate(harm if isfinite(harm) else known for harm in reversed([*order.values()]))][::-1]
    return [*(Rung({}, one / left[0], 0.0) for one in left), Rung({}, 0.0, 0.0)]


def _most_harmful_first(mixing: Mixing, decided: Decided) -> Mapping[str, float]:
    """The groups that are small, with the error that each of them alone makes at the outputs; without data, products
    first, taken to be alike."""
    groups = [made for made in group(mixing.model.graph) if made.name in decided.low]
    products_first = dict.fromkeys((made.name for made in sorted(groups, key=lambda made: not made.is_product)), 1.0)
    if mixing.data is None or mixing.target is None:
        return products_first

    def small(names: Sequence[str]) -> Plan:
        others = [made.name for made in groups if made.name not in names]
        return plan_of(mixing.model, mixing.config, _reverted(mixing, decided, others), _name(mixing))

    try:
        names = [made.name for made in groups]
        found = harms(mixing.model, mixing.target, names, small, _batch(mixing.data), mixing.progress)
    except (ModelError, DataError) as error:
        mixing.progress.say(f"the groups cannot be looked at one by one ({error}); products come first")
        return products_first
    if not any(found.values()):
        return products_first
    return {name: found[name] for name in sorted(found, key=lambda name: -found[name])}


def _batch(data: Dataset) -> Batch:
    return next(iter(islice(data.take(range(min(_LOOKED_AT, data.samples))).batches(_LOOKED_AT), 1)))


def _reverted(mixing: Mixing, decided: Decided, names: Sequence[str]) -> Decided:
    back = Choice(str(FP32), _TOO_MUCH.format(precision=mixing.config.precision))
    return replace(decided, choices={**decided.choices, **dict.fromkeys(names, back)})


def _finished(
    mixing: Mixing,
    decided: Decided,
    remarks: Sequence[str],
    scores: tuple[float, float] | None,
    evaluations: int,
) -> Fitted:
    plan = plan_of(mixing.model, mixing.config, decided, _name(mixing))
    original, artifact = mixing.model.original(), mixing.model.converted(plan)
    speedup, slower = None, []
    if mixing.data is not None and mixing.target is not None and decided.low:
        speedup = _speedup(mixing, mixing.target, original, artifact)
        if speedup.high < 1:
            slower = [
                f"it is slower than the original here; objective='latency' leaves in float32 what does not gain by "
                f"{mixing.config.precision}"
            ]
    report = MixedReport(
        mixing.config.precision,
        decided.choices,
        (original.size, artifact.size),
        (*remarks, *slower),
        mixing.metric,
        scores,
        evaluations,
        speedup,
        _name(mixing),
    )
    return Fitted(artifact, plan, report)


def _speedup(mixing: Mixing, target: Target, original: Artifact, artifact: Artifact) -> Interval:
    assert mixing.data is not None
    inputs = call_inputs(mixing.data, mixing.model.inputs, 1)
    with scratch_folder() as folder:
        files: Mapping[str, Artifact] = {"original": original, "converted": artifact}
        candidates = [
            Candidate(name, scratch_file(folder / name, one), target.name, target.threads)
            for name, one in files.items()
        ]
        found = compare(candidates, inputs, rounds=_ROUNDS, looks=1, progress=mixing.progress)
    return found.speedups["converted"]


def _name(mixing: Mixing) -> str:
    return "" if mixing.target is None else mixing.target.name
