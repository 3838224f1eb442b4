"""Trials of feature caching: CacheQuant's schedule and correction by channel, and searched lists of light steps.

    python -m lab.cache_trials --model cifar10 --steps 20

CacheQuant (Liu et al. 2025, arXiv 2503.01323) places the full steps by dynamic programming over the features of a run,
and corrects the features that a light step reads by a line for each channel. ECAD (Aggarwal et al. 2025, arXiv
2506.15682) searches the steps that are full by a genetic algorithm. Both choose on FIT_SEEDS; a plan of full steps with
at most the same multiply-adds is the control, on held-out seeds.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from numpy.typing import NDArray

from benchmarks.caching import MODELS, SOLVERS, TEACHER, Case, open_case
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import FIT_SEEDS, draw_conditions, held_out_conditions
from fewstep.plans.light_steps import use_light_steps
from fewstep.plans.plan import LIGHT, Plan, Step
from fewstep.runtime.kinds.graph_entry import NEXT
from fewstep.runtime.sampling.execute import Array, execute, finish
from fewstep.runtime.sampling.slots import CarryingNetwork
from fewstep.runtime.sampling.step_call import GraphCall

Features = NDArray[np.float32]  # [B, channels, ...] of one step
Lines = Mapping[int, tuple[Features, Features]]  # by step: factor and offset of each channel
OTHERS = (*SOLVERS, "ipndm", "deis_log_rho_3")  # solvers of plans without light steps
FITTED, JUDGED = 8, 12  # seeds
POPULATION, GENERATIONS = 12, 6


@dataclass(frozen=True)
class Trial:
    """A denoiser with a light network, along one plan of full steps."""

    case: Case
    plan: Plan

    @property
    def port(self) -> str:
        features = self.case.sampler.bundle.manifest.features
        assert features is not None
        return features.name

    @cached_property
    def features(self) -> list[Features]:
        """The features of each step along trajectories of full steps."""
        kept: list[Features] = []
        watched = replace(self.case.sampler, on_call=partial(_keep, kept, NEXT + self.port))
        seeds = FIT_SEEDS[:FITTED]
        for _ in watched.steps(self.plan, seeds, draw_conditions(watched.bundle.manifest, seeds), None):
            pass
        return kept

    def lines(self, light: Sequence[int], is_linear: bool) -> Lines:
        """Return the corrections of the light steps."""
        plan = use_light_steps(self.plan, light, self.port, is_linear)
        return fit_lines(self.features, read_features(self.features, plan))

    @cached_property
    def fit_teacher(self) -> Features:
        seeds = FIT_SEEDS[:FITTED]
        return self.case.sampler.sample(TEACHER, seeds, draw_conditions(self.case.sampler.bundle.manifest, seeds))

    def sample(
        self, light: Sequence[int], seeds: Sequence[int], lines: Lines, is_linear: bool, held_out: bool
    ) -> Array:
        """Return samples with these light steps, whose features are corrected."""
        sampler = self.case.sampler
        draw = held_out_conditions if held_out else draw_conditions
        plan = use_light_steps(self.plan, light, self.port, is_linear)
        call = sampler.step_call(plan, len(seeds), draw(sampler.bundle.manifest, seeds))

        def corrected(
            index: int, step: Step, u: Array, taken: Mapping[str, Array]
        ) -> tuple[Sequence[Array], Mapping[str, Array]]:
            if step.network == LIGHT and index in lines:
                factor, offset = lines[index]
                taken = {**taken, self.port: factor * taken[self.port] + offset}
            return call.call_carrying(index, step, u, taken)

        assert call.slots is not None
        return finish(plan, execute(plan, CarryingNetwork(corrected, call.slots), sampler.draws(seeds)))


def _keep(kept: list[Features], port: str, index: int, call: GraphCall) -> None:
    kept.append(np.asarray(call.returned[port], np.float32))


def read_features(features: Sequence[Features], plan: Plan) -> dict[int, Features]:
    """Return what each light step of a plan reads along trajectories of full steps: a combination of slots."""
    read, slots = {}, list[Features]()
    for number, (step, own) in enumerate(zip(plan.steps, features, strict=True)):
        if step.network == LIGHT:
            (entry,) = step.carry_in
            read[number] = sum(weight * slot for weight, slot in zip(entry.row, slots, strict=False) if weight)
        else:
            slots = [own, *slots][:2]
    return read


def fit_lines(features: Sequence[Features], read: Mapping[int, Features]) -> dict[int, tuple[Features, Features]]:
    """Return the least-squares line of each channel from the features that a light step reads to its own, over all
    samples and positions."""
    lines = {}
    for step, held in read.items():
        own = features[step]
        axes = (0, *range(2, own.ndim))
        mean_held, mean_own = held.mean(axes, keepdims=True), own.mean(axes, keepdims=True)
        spread = ((held - mean_held) ** 2).mean(axes, keepdims=True)
        factor = ((held - mean_held) * (own - mean_own)).mean(axes, keepdims=True) / np.maximum(spread, 1e-12)
        lines[step] = factor, mean_own - factor * mean_held
    return lines


def schedule(features: Sequence[Features], full: int) -> list[int]:
    """Return the light steps of the division of a run into groups, each after a full step, with the least sum of
    distances of features from those of the full step. Groups have half to twice the mean length, rounded."""
    count = len(features)
    interval = max(round(count / full), 1)
    least, most = (interval + 1) // 2, 2 * interval
    cost = {
        (start, end): sum(float(np.abs(features[i] - features[start]).mean()) for i in range(start, end))
        for start in range(count)
        for end in range(start + least, min(start + most, count) + 1)
    }
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (0.0, ())}
    for group in range(full):
        for (start, end), own in cost.items():
            if (start, group) in best:
                total, starts = best[start, group]
                if total + own < best.get((end, group + 1), (np.inf, ()))[0]:
                    best[end, group + 1] = total + own, (*starts, start)
    _, starts = best[count, full]
    return [step for step in range(count) if step not in starts]


def search(
    fitness: Callable[[tuple[int, ...]], float], count: int, light: int, starts: Sequence[Sequence[int]]
) -> list[int]:
    """Return the list of `light` light steps of `count` with the largest fitness that a genetic algorithm finds, from
    these lists and random ones. A child takes the steps of both parents, and others by chance, and one may move."""
    rng, scored = np.random.default_rng(0), dict[tuple[int, ...], float]()

    def score(each: Sequence[int]) -> tuple[int, ...]:
        key = tuple(sorted(map(int, each)))
        if key not in scored:
            scored[key] = fitness(key)
        return key

    people = [score(each) for each in starts]
    people += [
        score(rng.choice(np.arange(1, count), light, replace=False).tolist()) for _ in range(POPULATION - len(people))
    ]
    for _ in range(GENERATIONS):
        for _ in range(POPULATION):
            one, other = (max(rng.choice(len(people), 2), key=lambda i: scored[people[i]]) for _ in range(2))
            both = {*people[one]} & {*people[other]}
            rest = [*({*people[one]} ^ {*people[other]})]
            child = [*both, *rng.permutation(rest)[: light - len(both)]]
            if rng.random() < 0.7:
                free = [step for step in range(1, count) if step not in child]
                child[rng.integers(light)] = free[rng.integers(len(free))]
            people.append(score(child))
        people = sorted({*people}, key=lambda each: -scored[each])[:POPULATION]
    return list(people[0])


def judge(trial: Trial, name: str, light: Sequence[int], lines: Lines, is_linear: bool) -> None:
    """Print the PSNR of light steps next to the best plan of full steps of that cost."""
    case, seeds = trial.case, list(range(JUDGED))
    features = case.sampler.bundle.manifest.features
    assert features is not None
    cost = len(trial.plan.steps) - len(light) * (1 - features.share)
    own = psnr(trial.sample(light, seeds, lines, is_linear, held_out=True), case._samples(TEACHER, seeds))
    others = {plan: case.psnr(plan, seeds) for plan in (f"{solver}:{int(cost + 1e-6)}" for solver in OTHERS)}
    other = max(others, key=lambda each: float(others[each].mean()))
    gain = own - others[other]
    error = gain.std(ddof=1) / len(gain) ** 0.5
    print(
        f"{case.name} | {trial.plan.name} | {name} | {len(light)} light | cost {cost:.1f} | {own.mean():.1f} | {other}"
        f" {others[other].mean():.1f} | {gain.mean():+.1f} ± {error:.1f} | {list(light)}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="trials of feature caching")
    parser.add_argument("--model", choices=list(MODELS), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--interval", type=int, default=2)
    parser.add_argument("--no-search", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "fewstep-caching")
    asked = parser.parse_args()
    case = open_case(asked.model, asked.work)
    trial = Trial(case, case.sampler.compile(f"dpmpp_2m:{asked.steps}"))
    even = [step for step in range(1, asked.steps) if step % asked.interval]
    full = asked.steps - len(even)
    programmed = schedule(trial.features, full)
    for name, light in (("every", even), ("dynamic programming", programmed)):
        judge(trial, name, light, {}, False)
        judge(trial, f"{name}, corrected", light, trial.lines(light, False), False)
        judge(trial, f"{name}, extrapolated", light, {}, True)
        judge(trial, f"{name}, extrapolated and corrected", light, trial.lines(light, True), True)

    if asked.no_search:
        return 0

    def fitness(light: tuple[int, ...]) -> float:
        made = trial.sample(light, FIT_SEEDS[:FITTED], {}, True, held_out=False)
        return float(psnr(made, trial.fit_teacher).mean())

    found = search(fitness, asked.steps, len(even), [even, programmed])
    judge(trial, "searched, extrapolated", found, {}, True)
    judge(trial, "searched, held", found, {}, False)
    judge(trial, "searched, extrapolated and corrected", found, trial.lines(found, True), True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
