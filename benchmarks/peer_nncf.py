"""NNCF's post-training quantiser, run by the Python of an environment that has it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

import minilm
from fewbits.budget import Budget
from peer_job import Job, Made, one_line, save
from peer_targets import IR
from suite import Arrays, Member

PROGRAM: Final = Path(__file__).with_name("nncf_quantise.py")
# NNCF does not find out by itself.
TRANSFORMERS: Final = frozenset({"vit_s", "bert_base", "minilm", "tiny_gpt"})
_LAST_WORDS: Final = 300


@dataclass(frozen=True)
class Recipe:
    """One way through NNCF, as options of ``nncf_quantise.py``."""

    settings: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What ``nncf_quantise.py`` says of a run."""

    seconds: float
    evaluations: int
    samples: int
    versions: Mapping[str, str]


_REPORT = TypeAdapter(Report)


@dataclass(frozen=True)
class Nncf:
    """The tool: which Python has it, and for how many seconds accuracy control may run."""

    python: Path
    control_seconds: float

    def make(self, recipe: Recipe, job: Job, seconds: float | None = None) -> Made:
        """What NNCF makes, or what it said when it failed, or that it was stopped after `seconds` (default: never)."""
        calibration = job.out.with_suffix(".calibration.npz")
        report = job.out.with_suffix(".json")
        save(job.inputs, calibration)
        files = (job.model, calibration, job.out, report)
        command = [str(self.python), str(PROGRAM), *map(str, files), *recipe.options]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=_quiet())
        except subprocess.TimeoutExpired as error:
            stopped = f"stopped after {error.timeout:.0f} s"
            return Made(recipe.settings, job.out, IR, seconds=error.timeout, failure=stopped)
        except OSError as error:
            return Made(recipe.settings, job.out, IR, failure=one_line(error))
        if run.returncode:
            words = " ".join(run.stderr.split())[-_LAST_WORDS:]
            return Made(recipe.settings, job.out, IR, failure=f"exit code {run.returncode}: {words}")
        return _made(recipe, job, _REPORT.validate_json(report.read_bytes()))

    def control(self, member: Member, folder: Path, job: Job) -> Made:
        """``quantize_with_accuracy_control`` with the budget and the data that fewbits gets."""
        data = job.out.with_suffix(".data.npz")
        save(_validation(member, folder), data)
        return self.make(control_recipe(member, data), job, self.control_seconds)


def recipes(member: Member) -> Mapping[str, Recipe]:
    """NNCF as it comes, and as someone who knows it would call it for `member`."""
    found = {"NNCF default": Recipe("nncf.quantize, defaults")}
    if member.name not in TRANSFORMERS:
        return found | {"NNCF mixed": Recipe("nncf.quantize(preset=MIXED)", ("--preset", "mixed"))}
    return found | {
        f"NNCF {preset}": Recipe(
            f"nncf.quantize(model_type=TRANSFORMER, preset={preset.upper()})", ("--transformer", "--preset", preset)
        )
        for preset in ("mixed", "performance")
    }


def control_recipe(member: Member, data: Path) -> Recipe:
    """Accuracy control for `member`, on the arrays in `data`."""
    budget = Budget.parse(member.max_loss)
    said = [f"max_drop={budget.amount:g}", f"drop_type={'RELATIVE' if budget.relative else 'ABSOLUTE'}"]
    options = ["--data", str(data), "--max-drop", str(budget.amount)]
    options += ["--metric", "agreement" if member.name == "minilm" else "accuracy"]
    if budget.relative:
        options.append("--relative")
    if member.name in TRANSFORMERS:
        options.append("--transformer")
        said.append("model_type=TRANSFORMER")
    return Recipe(f"nncf.quantize_with_accuracy_control({', '.join(said)})", tuple(options))


def _validation(member: Member, folder: Path) -> Arrays:
    if member.name == "minilm":
        agreement = minilm.Agreement.load(folder)
        return {"input_ids": agreement.ids, "attention_mask": agreement.mask, "nearest": agreement.original}
    return member.data(folder)


def _made(recipe: Recipe, job: Job, report: Report) -> Made:
    # A target opens one file: this one says where the IR is.
    pointer = job.out.with_suffix(".path")
    pointer.write_text(str(job.out.resolve()), encoding="utf-8")
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    return Made(
        f"{recipe.settings}; {versions}",
        pointer,
        IR,
        files=(job.out, job.out.with_suffix(".bin")),
        seconds=report.seconds,
        evaluations=report.evaluations,
    )


def _quiet() -> dict[str, str]:
    """This environment, with NNCF's usage reports to its maker switched off."""
    return {**os.environ, "NNCF_CI": "1"}
