"""Mixed precision where it is faster: the search of `tune`, held to one small float."""

from __future__ import annotations

from dataclasses import replace

from fewbits.data import DataSource
from fewbits.flow.mixed.fit import Mixing, planned
from fewbits.flow.mixed.fitted import Fitted, MixedReport
from fewbits.flow.tuning import tune
from fewbits.formats.scheme import FP32, Scheme
from fewbits.models import ModelSource
from fewbits.plan import Choice
from fewbits.space import Rule


def fastest(mixing: Mixing, source: ModelSource, data: DataSource, metric: str | None) -> Fitted:
    """The fastest mixture of float32 and the small float that holds the budget; the original if none is faster."""
    config = mixing.config
    decided = planned(mixing.model, config, of_module=mixing.of_module)
    low = Scheme.parse(config.precision)
    rules = [
        *(Rule(name, FP32) for name, choice in decided.choices.items() if choice.scheme == str(FP32)),
        Rule("*", low),
    ]
    result = tune(
        source,
        data,
        evaluate="agreement" if metric is None else metric,
        max_loss=config.max_loss,
        max_trials=config.max_trials,
        target="auto" if mixing.target is None else mixing.target.name,
        rules=rules,
        progress=mixing.progress,
    )
    choices = {
        name: result.plan.choices.get(name, Choice(str(FP32), decided.choices[name].reason)) for name in decided.choices
    }
    remarks = [f"{word} matches nothing in this model" for word in decided.unmatched]
    original = mixing.model.original()
    report = MixedReport(
        config.precision,
        choices,
        (original.size, result.artifact.size),
        (*remarks, result.outcome.advice),
        speedup=result.speedup,
        target=result.target,
    )
    return Fitted(result.artifact, replace(result.plan, choices=choices), report)
