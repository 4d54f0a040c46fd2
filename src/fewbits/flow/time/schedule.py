"""What is still to do and how long it takes, from what such work took before in this run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fewbits.flow.job import Job
from fewbits.flow.time.deadline import Stage
from fewbits.flow.time.pace import Work
from fewbits.memory import ROUNDS
from fewbits.report.words import readable_time
from fewbits.search.descent import Bracketing, Descent
from fewbits.search.problem import Attempt, Finished, Ladder, Trial
from fewbits.targets import is_simulated
from fewbits.verify.acceptance import Objective

_ACCURACY_TRIALS: Final = 3
"""So many neighbours on the front are evaluated where the least loss is looked for."""
_SIMULATED_TRIALS: Final = 8
"""More than on a runtime, since nothing is timed."""
_ROUNDS: Final = 24
"""Rounds of the comparison at acceptance, at most (`fewbits.benchmark.compare`)."""
_TRACE: Final = 30.0
_TRACE_SHARE: Final = 0.1
_FOLLOWING: Final = 2
"""Ranking is of no use without so many trials after it."""


def most_trials(job: Job) -> int:
    """How many plans the search may evaluate."""
    if job.trials is not None:
        return job.trials
    if job.objective is Objective.ACCURACY:
        return _ACCURACY_TRIALS
    return _SIMULATED_TRIALS if is_simulated(job.sites[0].name) else Descent().most


def trace_seconds(job: Job) -> float:
    """How long the solver may take for the front."""
    return min(_TRACE, job.deadline.share(_TRACE_SHARE))


def acceptance_seconds(job: Job) -> float:
    """What acceptance takes: both models on the acceptance split, the comparison of their latencies, a profile, and
    where memory counts the comparison of that."""
    pace, splits = job.pace, job.splits
    share = splits.acceptance.samples / splits.selection.samples if splits.selection.samples else 0.0
    evaluations = 2 * share * pace.each(Work.EVALUATION) if job.evaluator.uses_split else 0.0
    memory = 2 * ROUNDS * pace.each(Work.PEAK)
    return evaluations + 2 * _ROUNDS * pace.each(Work.ROUND) + pace.each(Work.PROFILE) + memory


def trial_seconds(job: Job) -> float:
    """What another trial takes: as those before, but no less than the original's evaluation, since few are read to the
    end and the next may be."""
    return max(job.pace.each(Work.TRIAL), job.pace.each(Work.EVALUATION))


def ranking_ends(job: Job, done: int, of: int) -> bool:
    """Whether no more than `done` of `of` forms are ranked, for want of time; says when all will be over."""
    form = job.pace.each(Work.FORM)
    if done == 1 and of > 1:
        left = of - done
        tell(job, trials_left(job), (left * form, f"ranking {left} form{'s' if left != 1 else ''}"))
    after = acceptance_seconds(job) + _FOLLOWING * trial_seconds(job) + trace_seconds(job)
    return job.deadline.stops(Stage.RANK, done, of, form + after)


def refining_ends(job: Job, done: int, of: int) -> bool:
    """Whether codes are searched for no more than `done` of `of` weights, for want of time."""
    need = job.pace.each(Work.CODES) + acceptance_seconds(job) + _FOLLOWING * trial_seconds(job)
    return job.deadline.stops(Stage.REFINE, done, of, need)


def learning_ends(job: Job, done: int, of: int, work: float) -> bool:
    """Whether rounding is learnt for no more than `done` of `of` weights, for want of time for another's `work`."""
    need = work * job.pace.each(Work.ROUNDING) + acceptance_seconds(job) + _FOLLOWING * trial_seconds(job)
    return job.deadline.stops(Stage.LEARN, done, of, need)


def ranging_ends(job: Job, done: int, of: int) -> bool:
    """Whether ranges are tried out no more than `done` of `of` times, for want of time."""
    need = job.pace.each(Work.FORM) + acceptance_seconds(job) + _FOLLOWING * trial_seconds(job)
    return job.deadline.stops(Stage.RANGE, done, of, need)


def finalists_in_time(job: Job, usual: int, rounds: int) -> int:
    """How many plans to begin with are timed with care for `rounds` rounds: `usual`, or the best alone if time is
    short."""
    need = rounds * (usual + 1) * job.pace.each(Work.ROUND) + trial_seconds(job) + acceptance_seconds(job)
    return 1 if job.deadline.stops(Stage.PLACE, 1, usual, need) else usual


def screening_fits(job: Job, rounds: int) -> bool:
    """Whether there is time for `rounds` rounds of a plan with and without its slower groups."""
    need = 2 * rounds * job.pace.each(Work.ROUND) + trial_seconds(job) + acceptance_seconds(job)
    return not job.deadline.stops(Stage.SCREEN, 0, 1, need)


def trials_left(job: Job) -> int:
    """How many plans may be evaluated after ranking: the first trial, where it showed that ranking is needed, is one of
    them already."""
    begun = not (job.objective is Objective.ACCURACY or is_simulated(job.sites[0].name))
    return most_trials(job) - begun


def tell(job: Job, trials: int, *before: tuple[float, str]) -> None:
    """Say what is left to do and about how long that takes: what comes `before` (seconds and words), at most so many
    `trials`, and acceptance. Nothing is said before anything was measured."""
    evaluations = ((trials * trial_seconds(job), f"at most {trials} evaluation{'s' if trials != 1 else ''}"),)
    parts = (*before, *(evaluations if trials else ()), (acceptance_seconds(job), "acceptance"))
    seconds = sum(seconds for seconds, _ in parts)
    if seconds > 0:
        shorter = len(parts) > 1 and seconds > job.deadline.left
        earlier = "; the time limit will end it earlier" if shorter else ""
        job.progress.say(f"about {readable_time(seconds)} left: {', '.join(what for _, what in parts)}{earlier}")


@dataclass(frozen=True, slots=True)
class Punctual:
    """`Descent` with at most `trials`, fewer where the time limit leaves no room for more."""

    job: Job
    trials: int

    @property
    def most(self) -> int:
        """See Strategy."""
        return self.trials

    def init(self, ladder: Ladder, budget: float) -> Bracketing:
        """See Strategy."""
        return self._descent(self.trials).init(ladder, budget)

    def propose(self, state: Bracketing, history: Sequence[Trial]) -> Attempt | Finished:
        """See Strategy. With one trial left and nothing that holds, the last chance goes to the safest plan."""
        done, deadline = len(history), self.job.deadline
        allowed = deadline.allowed(Stage.TRY, done, self.trials, trial_seconds(self.job), acceptance_seconds(self.job))
        step = self._descent(max(1, allowed)).propose(state, history)
        if isinstance(step, Finished) and isinstance(self._descent(self.trials).propose(state, history), Attempt):
            deadline.note(Stage.TRY, done, self.trials)
        return step

    def is_over(self, done: int) -> bool:
        """Whether `done` trials are all that there may be, so that nothing needs to be prepared for another one."""
        need = trial_seconds(self.job) + acceptance_seconds(self.job)
        return done >= self.trials or self.job.deadline.stops(Stage.TRY, done, self.trials, need)

    def _descent(self, trials: int) -> Descent:
        return Descent(trials, self.job.measure.power)
