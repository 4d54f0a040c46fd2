"""``fewbits tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewbits.cli import arguments
from fewbits.cli.arguments import CalibrationMethod, Data, Model, Objective, Sensitivity, Streams, Target, Threads
from fewbits.cli.output import show, tell
from fewbits.console import stderr_progress
from fewbits.errors import FewbitsError, RunError

_GOAL = "What is good enough"
_IMAGES = "Data from a folder of images"
_SEARCH = "Search"


def tune(
    context: typer.Context,
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="Directory for the run: model, plan, report, journal.", show_default=False)],
    metric: Annotated[
        str,
        typer.Option(
            help="A metric by name (accuracy, top-5, f1, mse, cosine, agreement, ...; the last two need no labels), "
            "or your own evaluate(predict) as module:function or file.py:function.",
            rich_help_panel=_GOAL,
        ),
    ] = "agreement",
    max_loss: Annotated[
        str | None,
        typer.Option(
            help="Allowed loss: 1% of the original's score (the default, but for --objective accuracy), or an absolute "
            "0.01.",
            show_default=False,
            rich_help_panel=_GOAL,
        ),
    ] = None,
    higher_is_better: Annotated[
        bool | None,
        typer.Option(
            "--higher-is-better/--lower-is-better",
            help="Which way your own metric is better.",
            show_default=False,
            rich_help_panel=_GOAL,
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            metavar="|".join(Objective),
            help="What to make as good as possible within the allowed loss; or the accuracy, within --max-latency and "
            "--max-size.",
            rich_help_panel=_GOAL,
        ),
    ] = Objective.LATENCY.value,
    max_latency: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The most that a call may take, end to end: 5ms, 800us, 0.005s.",
            show_default=False,
            rich_help_panel=_GOAL,
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="The largest file: 20MB, 512kB, 16MiB.", show_default=False, rich_help_panel=_GOAL
        ),
    ] = None,
    target: Target = "auto",
    threads: Threads = 0,
    batch: Annotated[int, typer.Option(min=1, help="Samples per call when it is measured.")] = 1,
    streams: Streams = 0,
    serve_on: Annotated[
        str,
        typer.Option(
            metavar="avx2|avx512|vnni|amx|arm",
            help="The CPU that will serve, where it is not like this one: without VNNI (avx2, avx512) weights get 7 "
            "bits where 8-bit products could be cut.",
            show_default=False,
        ),
    ] = "",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Data for the ranges of activations, in the same forms as --data; without it, a part of --data.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="224 or HEIGHTxWIDTH; without it, what the model fixes.", show_default=False, rich_help_panel=_IMAGES
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Mean per channel, of pixels in 0..1.", show_default=False, rich_help_panel=_IMAGES),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Standard deviation per channel.", show_default=False, rich_help_panel=_IMAGES),
    ] = None,
    calibration_method: Annotated[
        CalibrationMethod, typer.Option(help="How ranges of activations are found.", rich_help_panel=_SEARCH)
    ] = CalibrationMethod.AUTO,
    sensitivity: Annotated[
        Sensitivity,
        typer.Option(
            help="What ranks groups: the squared error of the outputs, the divergence of class probabilities (kl), or "
            "the loss of the metric per sample.",
            rich_help_panel=_SEARCH,
        ),
    ] = Sensitivity.AUTO,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB=SCHEME",
            help="Fix the scheme of groups, for example 'conv_1*=fp32'; may be given again, the first match wins.",
            show_default=False,
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    max_trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many plans the search may evaluate; 5, or 3 for --objective accuracy, if not given.",
            show_default=False,
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="About how long it may all take: 90s, 10m, 2h. The best plan found by then is accepted as any other.",
            show_default=False,
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    effort: Annotated[
        str,
        typer.Option(
            metavar="low|medium|high",
            help="How far remedies go that take time: clipped ranges for weights in few bits; codes that are searched "
            "for and corrected biases; more forms of 4 bits, more ways to find codes, ranges tensor by tensor, too.",
            rich_help_panel=_SEARCH,
        ),
    ] = "medium",
    seed: Annotated[int, typer.Option(help="Seed of the splits and intervals.", rich_help_panel=_SEARCH)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Start anew in a directory that holds a run.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Find the fastest (or smallest) form of MODEL within the allowed loss, or the most accurate one within limits.

    Example: fewbits tune model.onnx --data eval.npz --metric accuracy --max-loss 1% --out runs/my-model
    """
    # Frameworks load when there is work for them, so that --help and errors in options are quick.
    from fewbits import flow
    from fewbits.data import ImageOptions
    from fewbits.flow.goals.goal import objective_of
    from fewbits.report.text import summary
    from fewbits.space import Rule
    from fewbits.store import RunFile, finished_steps

    images = None
    if (image_size, mean, std) != (None, None, None):
        images = ImageOptions(
            size=None if image_size is None else arguments.image_size(image_size),
            mean=(0.0,) if mean is None else arguments.channels("--mean", mean),
            std=(1.0,) if std is None else arguments.channels("--std", std),
        )
    goal = objective_of(objective)
    rules = tuple(Rule.parse(text) for text in rule or ())
    before = finished_steps(out)
    try:
        with stderr_progress() as progress:
            result = flow.tune(
                model,
                data,
                calibration=calibration,
                evaluate=metric,
                higher_is_better=higher_is_better,
                max_loss=max_loss,
                objective=goal.value,
                max_latency=max_latency,
                max_size=max_size,
                max_trials=max_trials,
                max_seconds=max_time,
                effort=effort,
                target=target,
                threads=threads,
                batch=batch,
                streams=streams,
                serve_on=serve_on,
                calibration_method=calibration_method.value,
                sensitivity=sensitivity.value,
                rules=rules,
                images=images,
                out=out,
                force=force,
                resume=resume,
                seed=seed,
                progress=progress,
            )
    except KeyboardInterrupt as stop:
        steps = finished_steps(out)
        kept = f"{steps} finished steps are kept in {out / RunFile.TRIALS}." if steps else "No step was finished yet."
        tell(f"\nStopped. {kept} Go on with:\n  {arguments.resuming(context.obj)}")
        raise typer.Exit(130) from stop
    except FewbitsError as error:
        steps = finished_steps(out)
        # A run that this one must not touch may lie there: its steps are no reason to say anything.
        if steps and (resume or steps != before) and not isinstance(error, RunError):
            kept = f"{steps} finished steps are kept in {out / RunFile.TRIALS}."
            tell(f"\nStopped. {kept} When the cause is mended, go on with:\n  {arguments.resuming(context.obj)}\n")
        raise
    show(summary(result.record))
    show(f"\nRun: {out}  (whole report: fewbits report {out})")
    raise typer.Exit(result.outcome.exit_code)
