"""Quality of int8 bodies: every body samples the same held-out seeds along the same plan as the float32 body.

Nothing here knows what a bundle is: a denoiser is a function, so that tests can use one whose error is known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.metrics import Energies
from fewstep.evaluation.distances.comparison import compare
from fewstep.evaluation.results import EndQuality, StepQuality
from fewstep.plans import guidance
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal
from fewstep.plans.plan import Plan, regroup
from fewstep.runtime.execute import Array, StepNetwork, StepState, combine, execute
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.request import check_given

Conditions = Mapping[str, NDArray[np.generic]]
Denoiser = Callable[[Plan, int, Conditions], StepNetwork]  # of a plan, the samples of a batch, and a value for each


@dataclass(frozen=True)
class Candidate:
    """A body to be judged, on the first `seeds` seeds; its single steps on the first `forced_seeds` of them."""

    name: str
    denoiser: Denoiser
    groups: tuple[float, ...]
    seeds: int
    forced_seeds: int


@dataclass(frozen=True)
class Setting:
    """What is sampled. `conditions(seeds)` gives the held-out condition of each seed."""

    plan: Plan
    teacher: Plan
    teacher_seeds: int
    seeds: int
    x_shape: tuple[int, ...]
    conditions: Callable[[Sequence[int]], Conditions]
    batch: int = 16


@dataclass(frozen=True)
class Judgement:
    """One candidate's quality; `samples` [seeds, *x_shape] are its own."""

    against_float: EndQuality
    against_teacher: EndQuality
    steps: tuple[StepQuality, ...]
    samples: Array


@dataclass(frozen=True)
class Judgements:
    """What `judge` measured: samples of teacher and float32 body, [seeds, *x_shape], and a judgement by name."""

    teacher: Array
    reference: Array
    float_against_teacher: EndQuality
    bodies: Mapping[str, Judgement]


def judge(
    setting: Setting, reference: Denoiser, candidates: Sequence[Candidate], progress: Progress = SILENT
) -> Judgements:
    """Judge the candidates against `reference`, the float32 body, and its own teacher trajectory."""
    seeds = range(setting.seeds)
    if not 0 < setting.teacher_seeds <= setting.seeds or any(c.seeds > setting.seeds for c in candidates):
        raise UserError(
            f"{setting.teacher_seeds} seeds for the teacher of {setting.seeds} in all", "give it at least 1 of them"
        )
    taught = seeds[: setting.teacher_seeds]
    teacher = trajectory(setting, setting.teacher, reference, taught, progress).sample
    references: list[Array] = []
    tallies = {candidate.name: _Tally.of(regroup(setting.plan, candidate.groups)) for candidate in candidates}
    for start in range(0, len(seeds), setting.batch):
        batch = seeds[start : start + setting.batch]
        exact = trajectory(setting, setting.plan, reference, batch)
        references.append(exact.sample)
        for candidate in candidates:
            if start < candidate.seeds:
                _judge(setting, candidate, batch, exact, tallies[candidate.name])
        progress("judging", batch.stop, len(seeds))
    floats = np.concatenate(references)
    return Judgements(
        teacher=teacher,
        reference=floats,
        float_against_teacher=compare(floats[: len(taught)], teacher, f"float32, {setting.teacher.name}"),
        bodies={name: tally.judgement(setting, floats, teacher) for name, tally in tallies.items()},
    )


@dataclass(frozen=True)
class Trajectory:
    """One batch along one plan: per step the network's input, its guided output, x0, and x after the step."""

    u: list[Array]
    guided: list[Array]
    x0: list[Array]
    x: list[Array]

    @property
    def sample(self) -> Array:
        return self.x[-1]


def trajectory(
    setting: Setting, plan: Plan, denoiser: Denoiser, seeds: Sequence[int], progress: Progress = SILENT
) -> Trajectory:
    """Sample a batch of seeds and keep what every step saw and made."""
    conditions = setting.conditions(seeds)
    network = denoiser(plan, len(seeds), conditions)
    given = check_given(plan.given, None, conditions, setting.x_shape, len(seeds))  # a degraded sample is a condition

    def draws(number: int) -> Array:
        return np.stack([normal(seed, number, setting.x_shape) for seed in seeds])

    states: list[StepState] = []
    for state in execute(plan, network, draws, given=given):
        states.append(state)
        progress(f"teacher {plan.name}", state.index + 1, len(plan.steps))
    nexts = [*(step.input for step in plan.steps[1:]), plan.output]
    return Trajectory(
        u=[state.u for state in states],
        guided=[guided(state.outputs, plan, state.index) for state in states],
        x0=[state.x0 for state in states],
        x=[combine(row, state.after, np.float32) for row, state in zip(nexts, states, strict=True)],
    )


def guided(outputs: Sequence[Array], plan: Plan, index: int) -> Array:
    """What guidance makes of the branches that step `index` evaluates; of several heads the first, the prediction."""
    step = plan.steps[index]
    weights = guidance.weights(plan.guidance, index, -np.inf if step.lam is None else step.lam)
    return combine(tuple(weights[branch] for branch in step.branches), outputs[:: step.heads], np.float32)


@dataclass(frozen=True)
class _Tally:
    """Sums over the batches seen so far, one of each energy per step; `plan` is in the candidate's range groups."""

    plan: Plan
    forced: list[Energies]
    x0: list[Energies]
    x: list[Energies]
    samples: list[Array] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan) -> "_Tally":
        forced, x0, x = ([Energies() for _ in plan.steps] for _ in range(3))
        return cls(plan, forced, x0, x)

    def judgement(self, setting: Setting, floats: Array, teacher: Array) -> Judgement:
        samples = np.concatenate(self.samples)
        taught = min(len(samples), len(teacher))
        steps = zip(self.plan.steps, self.forced, self.x0, self.x, strict=True)
        return Judgement(
            against_float=compare(samples, floats[: len(samples)], f"float32, {setting.plan.name}"),
            against_teacher=compare(samples[:taught], teacher[:taught], f"float32, {setting.teacher.name}"),
            steps=tuple(
                StepQuality(i, step.time, step.lam, step.group, forced.sqnr, x0.sqnr, x.sqnr)
                for i, (step, forced, x0, x) in enumerate(steps)
            ),
            samples=samples,
        )


def _judge(setting: Setting, candidate: Candidate, seeds: range, exact: Trajectory, tally: _Tally) -> None:
    """One batch of one candidate: its own trajectory, and its single steps on the float trajectory."""
    seeds = seeds[: candidate.seeds - seeds.start]
    count = len(seeds)
    own = trajectory(setting, tally.plan, candidate.denoiser, seeds)
    tally.samples.append(own.sample)
    for i in range(len(setting.plan.steps)):
        tally.x0[i].add(own.x0[i], exact.x0[i][:count])
        tally.x[i].add(own.x[i], exact.x[i][:count])
    forced = seeds[: max(candidate.forced_seeds - seeds.start, 0)]
    if not forced:
        return
    network = candidate.denoiser(tally.plan, len(forced), setting.conditions(forced))
    for i, step in enumerate(tally.plan.steps):
        outputs = network(i, step, exact.u[i][: len(forced)])
        tally.forced[i].add(guided(outputs, tally.plan, i), exact.guided[i][: len(forced)])
