"""Everything a run works on, opened and checked before the first figure is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fewbits.benchmark import Candidate
from fewbits.budget import Budget
from fewbits.data.batches import Arrays, Batch
from fewbits.errors import ModelError
from fewbits.evaluation import Evaluator
from fewbits.flow.conversions import Conversions
from fewbits.flow.goals.effort import Level
from fewbits.flow.names import ORIGINAL
from fewbits.flow.remedies.tried import Remedies
from fewbits.flow.scratch import scratch_file
from fewbits.flow.sessions import Original
from fewbits.flow.shelf import Shelf
from fewbits.flow.site import Rival, Site
from fewbits.flow.time.deadline import Deadline
from fewbits.flow.time.pace import Pace
from fewbits.formats.scheme import FP32, Scheme
from fewbits.graph import Graph, Kind
from fewbits.grouping import Group
from fewbits.limits import UNLIMITED, Limits
from fewbits.models.protocol import Artifact, Model
from fewbits.placement import between_codes, settle
from fewbits.plan import Choice, Plan, smoothed
from fewbits.progress import Progress
from fewbits.sensitivity.measure import Measure
from fewbits.store import Journal
from fewbits.targets import is_simulated
from fewbits.targets.protocol import Target
from fewbits.verify.acceptance import Objective
from fewbits.verify.splits import Splits

EVALUATION_BATCH = 16


@dataclass(frozen=True, slots=True)
class Wish:
    """The scheme that a group is to have, and why."""

    scheme: Scheme
    why: str


Asked = Mapping[str, Wish]
Ranges = Mapping[str, tuple[float, float]]


def asked(plan: Plan, without: Mapping[str, str] | None = None) -> Asked:
    """What `plan` asks for; the groups of `without` (name → why) in fp32 instead."""
    wishes = {name: Wish(plan.scheme(name), plan.choices[name].reason) for name in plan.low}
    return {**wishes, **{name: Wish(FP32, why) for name, why in (without or {}).items()}}


@dataclass(frozen=True)
class Job:
    """One run's model, data and goal, and the runtimes that could serve it. `inputs` is what one call gets when it is
    timed; `threads` are those of a runtime, shared by the `streams` calls that run at the same time (0: one after the
    other, as latency is measured). `scratch` is a folder for files that only the measuring processes read, `cache` the
    file of measured costs, `measure` what harm is. `limits` is what the model may cost, `trials` how many plans may be
    evaluated (``None``: as many as the search is made for), `deadline` when the run has to end, by what its `pace`
    foretells, `smoothing` the factors of the tensors that may be smoothed (`fewbits.smoothing`), `scaling` those
    for readers whose weight alone is in codes, `codes` the names of the codes that were found for weights, by group and
    scheme (`fewbits.codes`), `shelf` where those are kept, `equalised` the factors of channels that `model` is
    equalised by, `means` those of channels by which biases are corrected, `remedies` what was tried, `effort` how far
    they go; `mask` is the input that is 0 at padded positions, "" if there is none; `rivals` are the runtimes of other
    representations, with which the original is compared (`fewbits.flow.contest`)."""

    model: Model
    conversions: Conversions
    sites: tuple[Site, ...]
    groups: tuple[Group, ...]
    evaluator: Evaluator
    original: Original
    budget: Budget
    objective: Objective
    splits: Splits
    inputs: Arrays
    calibration_method: str
    measure: Measure
    journal: Journal
    shelf: Shelf
    scratch: Path
    cache: Path
    progress: Progress
    pace: Pace
    deadline: Deadline
    threads: int
    streams: int = 0
    limits: Limits = UNLIMITED
    trials: int | None = None
    smoothing: Mapping[str, str] = field(default_factory=dict)
    scaling: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    equalised: Mapping[str, str] = field(default_factory=dict)
    means: Mapping[str, str] = field(default_factory=dict)
    remedies: Remedies = field(default_factory=dict)
    effort: Level = Level.MEDIUM
    mask: str = ""
    rivals: tuple[Rival, ...] = ()

    def observe(self, batches: Iterable[Batch], tensors: Sequence[str]) -> Iterator[Arrays]:
        """The values that `tensors` of the model take; the original rests meanwhile."""
        self.original.rest()
        return self.model.observe(batches, tensors)

    @property
    def for_size(self) -> bool:
        """Whether what the search makes small is the file."""
        return self.objective is Objective.SIZE or (
            self.objective is Objective.ACCURACY and self.limits.seconds is None
        )

    @property
    def times(self) -> bool:
        """Whether what the search makes small is time: of a call, or of a sample where throughput counts."""
        return not (self.for_size or self.objective is Objective.MEMORY)

    @property
    def slower_may_pay(self) -> bool:
        """Whether a slower scheme may be worth the bytes that it saves."""
        return not self.times or self.limits.size is not None

    @property
    def graph(self) -> Graph:
        """The model's graph."""
        return self.model.graph

    @property
    def baseline_evaluations(self) -> int:
        """Full evaluations of the original before the search: two show whether a function of the user's repeats."""
        return 1 if self.evaluator.uses_split else 2

    @property
    def shared_by(self) -> int:
        """By how many the seconds of a call are divided to compare with what is measured: 1 for seconds per call; for
        seconds per sample the samples that all streams have in work."""
        return self.streams * Batch(self.inputs).samples if self.streams else 1

    def site(self, target: str) -> Site:
        """The site of the runtime `target`. Raises KeyError."""
        return {site.name: site for site in self.sites}[target]

    def home(self, target: str) -> Site:
        """The site of the runtime `target`; the first one if that serves another representation."""
        return next((site for site in self.sites if site.name == target), self.sites[0])

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The names of all that run the original: those of the sites, then those of rivals."""
        return (*(site.name for site in self.sites), *(rival.target.name for rival in self.rivals))

    def target(self, name: str) -> Target:
        """The runtime `name`, a site's or a rival's. Raises KeyError."""
        own, others = [site.target for site in self.sites], [rival.target for rival in self.rivals]
        return {target.name: target for target in (*own, *others)}[name]

    def original_on(self, target: str) -> Artifact:
        """The original as the runtime `target` reads it."""
        elsewhere = {rival.target.name: rival.original for rival in self.rivals}
        return elsewhere[target] if target in elsewhere else self.model.original()

    def original_file(self, target: str) -> Path:
        """A file of the original as the runtime `target` reads it. Raises StorageError."""
        own = target in {site.name for site in self.sites}
        return self.candidate_file(ORIGINAL if own else f"{ORIGINAL}_elsewhere", self.original_on(target))

    def plan(self, site: Site, asked: Asked, ranges: Ranges, calibration: str) -> Plan:
        """The groups that `asked` names in their schemes, as far as they keep a neighbour; the rest in fp32."""
        coded = {name for name, choice in asked.items() if choice.scheme.is_static}
        kept = settle(self.graph, self.groups, coded)
        joined = between_codes(self.graph, self.groups, kept) & set(site.space.coded)
        others = {name for name, wish in asked.items() if not wish.scheme.is_static and not wish.scheme.is_fp32}
        choices = {}
        for group in self.groups:
            if group.name in kept | others:
                choices[group.name] = Choice(str(asked[group.name].scheme), asked[group.name].why)
            elif group.name in joined:
                why = "it reads and gives codes, so computing on them costs no accuracy"
                choices[group.name] = Choice(str(site.space.coded[group.name]), why)
            else:
                choices[group.name] = Choice(str(FP32), self.why_not(site, group.name, asked))
        return Plan(
            self.model.sha256,
            choices,
            ranges,
            target=site.name,
            # Where nothing was measured, the machine does not matter.
            machine="" if is_simulated(site.name) else site.target.machine.summary(site.name.partition(":")[0]),
            calibration=calibration,
            smoothing=self._factors(choices),
            scaling=self.scaling_of(choices),
            codes=self.codes_of(choices),
            equalised=self.equalised,
            means=self._means(choices),
        )

    def may_have_codes(self, group: Group) -> bool:
        """Whether some runtime offers static codes for `group`."""
        return any(scheme.is_static for site in self.sites for scheme in site.space.schemes[group.name])

    def codes_of(self, choices: Mapping[str, Choice]) -> Mapping[str, str]:
        """The names of the codes that were found for the weights of `choices`."""
        found = {group: self.codes.get(group, {}).get(choice.scheme) for group, choice in choices.items()}
        return {group: name for group, name in found.items() if name is not None}

    def _factors(self, choices: Mapping[str, Choice]) -> Mapping[str, str]:
        """Those of the tensors that are smoothed for the groups of `choices`."""
        read = self._smoothed(choices, stored=False)
        return {tensor: factors for tensor, factors in self.smoothing.items() if tensor in read}

    def scaling_of(self, choices: Mapping[str, Choice]) -> Mapping[str, str]:
        """The factors of the tensors that groups read whose weight alone is in codes and smoothed."""
        read = self._smoothed(choices, stored=True)
        return {tensor: factors for tensor, factors in self.scaling.items() if tensor in read}

    def _smoothed(self, choices: Mapping[str, Choice], *, stored: bool) -> set[str]:
        """What the groups of `choices` read whose schemes are smoothed, with the weight alone `stored` in codes or with
        codes of both."""
        schemes = {name: Scheme.parse(choice.scheme) for name, choice in choices.items()}
        found = {name for name, scheme in schemes.items() if scheme.smoothed and scheme.is_weight_only is stored}
        return {group.operands[0] for group in self.groups if group.name in found}

    def _means(self, choices: Mapping[str, Choice]) -> Mapping[str, str]:
        """Those of the tensors that static codes are made of for the groups of `choices`."""
        schemes = {group: Scheme.parse(choices[group.name].scheme) for group in self.groups if group.weight}
        static = {group: scheme for group, scheme in schemes.items() if scheme.is_static}
        read = {smoothed(one.operands[0]) if scheme.smoothed else one.operands[0] for one, scheme in static.items()}
        return {tensor: means for tensor, means in self.means.items() if tensor in read}

    def why_not(self, site: Site, name: str, asked: Asked) -> str:
        """Why the group `name` stays in fp32."""
        refusals = site.space.refusals.get(name, ())
        if refusals and name not in site.space.free:
            # That of codes tells most: other schemes are refused to whole kinds of groups.
            return next((refusal for refusal in refusals if refusal.scheme.is_static), refusals[0]).reason
        if name in asked:
            choice = asked[name]
            return choice.why if choice.scheme.is_fp32 else "no neighbour left that computes on integers"
        return "the plan that was fastest end to end leaves it in fp32"

    def candidate(self, name: str, file: Path, target: str) -> Candidate:
        """The model in `file` as it is measured on the runtime `target`."""
        return Candidate(name, file, target, self.threads, self.streams)

    def candidate_file(self, name: str, artifact: Artifact) -> Path:
        """A file that holds `artifact`, for a measuring process. Raises StorageError."""
        return scratch_file(self.scratch / f"{name}{artifact.suffix}", artifact)


def refuse_quantised(graph: Graph) -> None:
    """Raise ModelError if the model computes in low precision already."""
    found = [node for node in graph.nodes if node.kind is Kind.QUANTIZE]
    if found:
        raise ModelError(
            f"the model is already quantised: {len(found)} nodes such as {found[0].name} ({found[0].op}); "
            "give the float model that it was made from"
        )
