"""Quality of int8 bodies over all held-out seeds: batches are asked for, and their figures are added in order."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from fewstep.measure.cost import BATCH
from fewstep.measure.distances.comparison import compare
from fewstep.measure.distances.judged_batch import (
    BodyMeasured,
    Candidate,
    Conditions,
    JudgedBatch,
    MeasuredBatch,
    SeedBatch,
    TeacherBatch,
)
from fewstep.measure.results import EndQuality, StepQuality
from fewstep.measure.rollouts.direction import NONE, judged_differences
from fewstep.measure.rollouts.metrics import Energies
from fewstep.measure.sampling_job import FEW
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, regroup
from fewstep.runtime.execute import Array
from fewstep.runtime.progress import SILENT, Progress

Ask = Callable[[Iterable[Any]], Iterator[Any]]  # answers of `TeacherBatch` and `JudgedBatch`, in order


@dataclass(frozen=True)
class Setting:
    """What is sampled. `conditions(seeds)` gives the held-out condition of each seed."""

    plan: Plan
    teacher: Plan
    teacher_seeds: int
    seeds: int
    x_shape: tuple[int, ...]
    conditions: Callable[[range], Conditions]
    batch: int = BATCH


@dataclass(frozen=True)
class Judgement:
    """One candidate's quality; `samples` [seeds, *x_shape] are its own, `reference` are float32's along its plan."""

    against_float: EndQuality
    against_teacher: EndQuality
    steps: tuple[StepQuality, ...]
    samples: Array
    reference: Array


@dataclass(frozen=True)
class Judgements:
    """What `judge` measured: samples of teacher and float32 body, [seeds, *x_shape], and a judgement by name."""

    teacher: Array
    reference: Array
    float_against_teacher: EndQuality
    bodies: Mapping[str, Judgement]


def judge(setting: Setting, candidates: Sequence[Candidate], ask: Ask, progress: Progress = SILENT) -> Judgements:
    """Judge the candidates against float32, and against its own teacher trajectory.

    Batches are independent of each other, and `ask` may have them done anywhere. Their figures are added in order.
    """
    seeds = range(setting.seeds)
    if not 0 < setting.teacher_seeds <= setting.seeds or any(c.seeds > setting.seeds for c in candidates):
        raise UserError(
            f"{setting.teacher_seeds} seeds for the teacher of {setting.seeds} in all", "give it at least 1 of them"
        )
    lessons, batches = _cut(seeds[: setting.teacher_seeds], FEW), _cut(seeds, setting.batch)
    answers = ask(
        chain((_taught(setting, part) for part in lessons), (_judged(setting, candidates, b) for b in batches))
    )
    taught: list[Array] = []
    for part in lessons:
        taught.append(next(answers))
        progress(f"teacher {setting.teacher.name}", part.stop, setting.teacher_seeds)
    references: list[Array] = []
    tallies = {
        candidate.name: _Tally.of(regroup(candidate.plan or setting.plan, candidate.groups)) for candidate in candidates
    }
    for batch in batches:
        measured: MeasuredBatch = next(answers)
        references.append(measured.reference)
        for name, own in measured.bodies.items():
            tallies[name].add(own)
        progress("judging", batch.stop, len(seeds))
    teacher, floats = np.concatenate(taught), np.concatenate(references)
    return Judgements(
        teacher=teacher,
        reference=floats,
        float_against_teacher=compare(floats[: len(teacher)], teacher, f"float32, {setting.teacher.name}"),
        bodies={name: tally.judgement(setting, teacher) for name, tally in tallies.items()},
    )


def _cut(seeds: range, size: int) -> list[range]:
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def _taught(setting: Setting, seeds: range) -> TeacherBatch:
    return TeacherBatch(setting.teacher, SeedBatch(seeds, setting.x_shape, setting.conditions(seeds)))


def _judged(setting: Setting, candidates: Sequence[Candidate], seeds: range) -> JudgedBatch:
    own = tuple(each for each in candidates if seeds.start < each.seeds)
    return JudgedBatch(setting.plan, own, SeedBatch(seeds, setting.x_shape, setting.conditions(seeds)))


@dataclass(frozen=True)
class _Tally:
    """Sums over the batches seen so far, one of each energy per step; `plan` is in the candidate's range groups.
    `differences` [steps, 2, 4] are `direction.sums`."""

    plan: Plan
    forced: list[Energies]
    x0: list[Energies]
    x: list[Energies]
    differences: Array
    samples: list[Array] = field(default_factory=list)
    reference: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan) -> "_Tally":
        forced, x0, x = ([Energies() for _ in plan.steps] for _ in range(3))
        return cls(plan, forced, x0, x, np.stack([NONE] * len(plan.steps)))

    def add(self, part: BodyMeasured) -> None:
        self.samples.append(part.samples)
        self.reference.append(part.reference)
        for sums, parts in ((self.forced, part.forced), (self.x0, part.x0), (self.x, part.x)):
            for total, energies in zip(sums, parts, strict=False):  # single steps are of fewer batches
                total.include(energies)
        for total_sums, added in zip(self.differences, part.differences, strict=False):
            total_sums += added

    def judgement(self, setting: Setting, teacher: Array) -> Judgement:
        samples, floats = np.concatenate(self.samples), np.concatenate(self.reference)
        taught = min(len(samples), len(teacher))
        steps = zip(self.plan.steps, self.forced, self.x0, self.x, strict=True)
        return Judgement(
            against_float=compare(samples, floats, f"float32, {self.plan.name}"),
            against_teacher=compare(samples[:taught], teacher[:taught], f"float32, {setting.teacher.name}"),
            steps=tuple(
                StepQuality(
                    i,
                    step.time,
                    step.lam,
                    step.group,
                    forced.sqnr,
                    x0.sqnr,
                    x.sqnr,
                    *judged_differences(i, self.differences[i]),
                    network=step.network,
                )
                for i, (step, forced, x0, x) in enumerate(steps)
            ),
            samples=samples,
            reference=floats,
        )
