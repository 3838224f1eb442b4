"""Judge bodies: float32 and each contender sample the same held-out seeds, and are compared one by one and as sets.

Questions go out a batch of seeds at a time, and whoever has the bodies open answers them: this process, or workers.
Figures are added in the order of the batches, so they do not follow from who answers. Memory holds a batch, not all
samples, unless they are wanted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.cost import BATCH
from fewstep.measure.distances.comparison import PairedSamples
from fewstep.measure.judged_batch import (
    Contender,
    JudgedBatch,
    JudgedRun,
    JudgedRuns,
)
from fewstep.measure.results import StepQuality, TokenQuality, TokenStepQuality
from fewstep.measure.rollouts.direction import NONE, judged_differences
from fewstep.measure.rollouts.end_quality import EndQuality, end_quality
from fewstep.measure.rollouts.metrics import sqnr
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.sampling import FEW, FLOAT, Batch
from fewstep.plans.any_plan import AnyPlan, regroup
from fewstep.plans.arguments import check_tokens
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.tokens.plan import LOGITS
from fewstep.runtime.bundle.manifest import TokenAgreement
from fewstep.runtime.execute import Array
from fewstep.runtime.progress import SILENT, Progress

LOGITS_HELD = 2**26  # numbers of a run's logits in memory, of each body

Ask = Callable[[Iterable[Any]], Iterator[Any]]  # the answers of questions, in order
BatchOf = Callable[[range], SeedBatch]


@dataclass(frozen=True)
class Want:
    """The measurements of each body, besides its distance from float32 along the same plan.

    teacher: a plan whose float32 samples of the first `taught` seeds all are compared with; None for none.
    extract: samples to features [B, D], of the first `featured` seeds, and of float32's of seeds `apart`; or None.
    samples: whether samples are kept.
    """

    teacher: Plan | None = None
    taught: int = 0
    extract: Callable[[NDArray[Any]], NDArray[np.floating]] | None = None
    featured: int = 0
    apart: range = range(0)
    samples: bool = False


@dataclass(frozen=True)
class Judgement:
    """The measurements of one body.

    Attributes:
        against_float: None of float32 itself, and without seeds.
        against_teacher: None without a teacher.
        steps: of plans of numbers; empty of float32 itself.
        tokens: of token plans.
        features: [featured, D]; empty where none are wanted.
        samples: [seeds, *x_shape], where they are wanted; `reference` are float32's along its plan.
    """

    against_float: EndQuality | None
    against_teacher: EndQuality | None
    steps: tuple[StepQuality, ...]
    tokens: TokenQuality | None
    features: NDArray[np.floating]
    samples: NDArray[Any]
    reference: NDArray[Any]


@dataclass(frozen=True)
class Judgements:
    """The result of `judge`: the teacher's samples, float32 along the plan of the judgement, and each contender.
    `apart` are features of float32's samples of other seeds."""

    teacher: Array
    reference: Judgement
    bodies: Mapping[str, Judgement]
    apart: NDArray[np.floating]


def judge(
    ask: Ask,
    contenders: Sequence[Contender],
    plan: AnyPlan,
    batch_of: BatchOf,
    count: int,
    want: Want,
    progress: Progress = SILENT,
    batch: int = BATCH,
) -> Judgements:
    """Judge bodies against float32 along a plan, and against the teacher, on the seeds 0 .. count - 1. UserError for
    more seeds of some kind than there are."""
    taught = want.taught if want.teacher is not None else 0
    if taught > count or any(each.seeds > count for each in contenders):
        raise UserError(f"{taught} seeds for the teacher of {count} in all", "give it at most so many")
    teacher_parts, paired = _cut(range(taught), FEW), _cut(range(count), _at_once(plan, batch))
    further = _cut(range(count, want.featured if want.extract else 0), batch)
    others = _cut(want.apart if want.extract else range(0), batch)
    answers = ask(_questions(contenders, plan, batch_of, want, (teacher_parts, paired, further, others)))
    samples = list[Array]()
    for part in teacher_parts:
        samples.append(next(answers))
        progress(f"teacher {want.teacher.name if want.teacher else ''}", part.stop, taught)
    teacher = np.concatenate(samples) if samples else np.zeros(0, np.float32)
    floats = _Tally(want, teacher, plan, is_float=True)
    tallies = {each.name: _Tally(want, teacher, regroup(each.plan or plan, each.groups)) for each in contenders}
    for part in paired:
        runs: JudgedRuns = next(answers)
        floats.add(JudgedRun(runs.reference, runs.reference))
        for name, own in runs.bodies.items():
            tallies[name].add(own)
        progress("judging", part.stop, count)
    for part in further:
        for tally in (floats, *tallies.values()):
            tally.add_features(next(answers))
        progress("samples of sets", part.stop, want.featured)
    apart = list[NDArray[np.floating]]()
    for part in others:
        apart += [want.extract(next(answers))] if want.extract else []
        progress("other float32 samples", part.stop - want.apart.start, len(want.apart))
    bodies = {name: tally.judgement() for name, tally in tallies.items()}
    return Judgements(teacher, floats.judgement(), bodies, np.concatenate(apart) if apart else np.zeros(0, np.float32))


def _questions(
    contenders: Sequence[Contender],
    plan: AnyPlan,
    batch_of: BatchOf,
    want: Want,
    parts: tuple[list[range], list[range], list[range], list[range]],
) -> Iterator[Any]:
    """The batches of the teacher, of pairs, of seeds whose features alone are wanted, and of float32's other seeds."""
    teacher_parts, paired, further, others = parts
    if want.teacher is not None:
        yield from (Batch(FLOAT, want.teacher, batch_of(part)) for part in teacher_parts)
    for part in paired:
        yield JudgedBatch(plan, tuple(each for each in contenders if part.start < each.seeds), batch_of(part))
    for part in further:
        batch = batch_of(part)
        yield Batch(FLOAT, plan, batch)
        yield from (Batch(each.name, each.plan or plan, batch) for each in contenders)
    yield from (Batch(FLOAT, plan, batch_of(part)) for part in others)


def _cut(seeds: range, size: int) -> list[range]:
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def _at_once(plan: AnyPlan, batch: int) -> int:
    """Seeds of a batch: few of tokens, whose logits are large."""
    if plan.prediction != LOGITS:
        return batch
    logits = prod(plan.shape) * check_tokens(plan).vocabulary
    numbers = len(plan.steps) * max(len(step.branches) for step in plan.steps) * logits
    return max(1, min(batch, LOGITS_HELD // numbers))


@dataclass
class _Tally:
    """Sums over the batches seen so far, at each step as a `JudgedRun` has them; `plan` is in the contender's range
    groups."""

    want: Want
    teacher: Array
    plan: AnyPlan
    is_float: bool = False
    is_forced: bool = False
    seen: int = 0
    against_float: PairedSamples = field(default_factory=PairedSamples)
    against_teacher: PairedSamples = field(default_factory=PairedSamples)
    features: list[NDArray[np.floating]] = field(default_factory=list)
    samples: list[NDArray[Any]] = field(default_factory=list)
    reference: list[NDArray[Any]] = field(default_factory=list)
    tokens: list[JudgedRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.energies = np.zeros((len(self.plan.steps), 3, 2))
        self.differences = np.zeros((len(self.plan.steps), *NONE.shape))

    def add(self, part: JudgedRun) -> None:
        lesson = self.teacher[self.seen :][: len(part.samples)]
        self.against_teacher.add(part.samples[: len(lesson)], lesson)
        self.add_features(part.samples)
        if self.want.samples:
            self.samples.append(part.samples)
            self.reference.append(part.reference)
        if part.agreement is not None:
            self.tokens.append(part)
        elif not self.is_float:
            self.against_float.add(part.samples, part.reference)
        if part.energies is not None and part.differences is not None:
            self.energies += part.energies
            self.differences += part.differences
        self.is_forced |= part.is_forced

    def add_features(self, samples: NDArray[Any]) -> None:
        """Take the features of samples, as far as they are wanted, and count their seeds."""
        wanted = samples[: max(0, self.want.featured - self.seen)]
        if self.want.extract is not None and len(wanted):
            self.features.append(self.want.extract(wanted))
        self.seen += len(samples)

    def judgement(self) -> Judgement:
        name, nothing = f"float32, {self.plan.name}", np.zeros(0, np.float32)
        teacher, tokens, against_float = self.want.teacher, None, None
        if self.tokens:
            decibels = np.concatenate([each.decibels for each in self.tokens if each.decibels is not None])
            against_float, tokens = end_quality(decibels, name), _token_quality(self.plan, self.tokens)
        elif not self.is_float and self.seen:
            against_float = self.against_float.quality(name)
        return Judgement(
            against_float=against_float,
            against_teacher=self.against_teacher.quality(f"float32, {teacher.name}") if teacher else None,
            steps=() if self.is_float or self.tokens else tuple(self._steps()),
            tokens=tokens,
            features=np.concatenate(self.features) if self.features else nothing,
            samples=np.concatenate(self.samples) if self.samples else nothing,
            reference=np.concatenate(self.reference) if self.reference else nothing,
        )

    def _steps(self) -> Iterator[StepQuality]:
        steps: Any = self.plan.steps
        for i, step in enumerate(steps):
            differences, (forced, x0, x) = judged_differences(i, self.differences[i]), map(sqnr, self.energies[i])
            found = (forced if self.is_forced else None, x0, x, *differences)
            yield StepQuality(i, step.time, step.lam, step.group, *found, network=step.network)


def _token_quality(plan: Any, parts: Sequence[JudgedRun]) -> TokenQuality:
    """The mean over batches: every sample has as many open positions at a step."""
    agreements = [each.agreement for each in parts if each.agreement is not None]
    weights = [len(each.samples) for each in parts]

    def mean(field: Callable[[TokenAgreement], Any]) -> Any:
        return np.average(np.array([field(each) for each in agreements]), axis=0, weights=weights)

    steps = tuple(
        TokenStepQuality(index, step.lam, step.group, float(differ), float(nats))
        for index, (step, (differ, nats)) in enumerate(zip(plan.steps, mean(lambda each: each.steps), strict=True))
    )
    return TokenQuality(float(mean(lambda each: each.disagreement)), float(mean(lambda each: each.same)), steps)
