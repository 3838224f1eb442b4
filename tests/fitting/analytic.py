"""Denoisers with closed forms in place of a bundle's sampler, with the methods that a fit calls."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
from numpy.typing import ArrayLike

from fewstep.fitting.blocks import Block
from fewstep.fitting.free_numbers import Freedom, free_numbers
from fewstep.fitting.jacobian import column_norms, join_jacobians
from fewstep.fitting.levenberg_marquardt import FitSeeds, NominalPsnr, Refinement
from fewstep.fitting.recurrence import extract_recurrence
from fewstep.fitting.rollouts import FitSampler
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.compile import compile_plan
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import CLEAN, NoiseSchedule, Time
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec

X_SHAPE = (1, 4, 4)


@dataclass
class Analytic:
    """A sampler of E[x0 | x] on a schedule; `calls` counts the calls of each step.

    exact: (x, time, branch) -> x0. The time is the point of the schedule that belongs to the network's time.
    """

    facts: DenoiserFacts
    exact: Callable[[np.ndarray, Time, str], np.ndarray]
    calls: list[int] = field(default_factory=list)

    @property
    def bundle(self) -> SimpleNamespace:
        return SimpleNamespace(manifest=SimpleNamespace(x_shape=X_SHAPE, conditions=(), schedule=self.facts.schedule))

    @property
    def plans(self) -> SimpleNamespace:
        return SimpleNamespace(compile=lambda plan, guidance, settings: self.compile(str(plan), guidance))

    def compile(self, plan: str, guidance: Guidance | None = None) -> Plan:
        return compile_plan(plan, self.facts, guidance)

    def step_network(self, plan: Plan, samples: int, conditions: object):
        schedule = NoiseSchedule(self.facts.schedule)

        def call(index, step, u):
            self.calls.append(index)
            time = at(schedule, step.time)
            x = u / input_scale(self.facts.prediction, time, self.facts.schedule)
            a, b = x0_coefficients(self.facts.prediction, time, self.facts.schedule)
            return [((self.exact(x, time, branch) - a * x) / b).astype(np.float32) for branch in step.branches]

        return call


def at(schedule: NoiseSchedule, network_time: float) -> Time:
    """Return the point of the schedule at a network time."""
    low, high = sorted((schedule.cleanest.network, schedule.noisiest.network))
    return schedule.time(min(max(network_time, low), high))


def gaussian(mean: ArrayLike = 0.4, std: ArrayLike = 0.25) -> Callable[[np.ndarray, Time, str], np.ndarray]:
    """E[x0 | x] of independent Gaussian elements; the unconditional branch has another mean."""
    mean, std = np.asarray(mean), np.asarray(std)

    def exact(x: np.ndarray, time: Time, branch: str) -> np.ndarray:
        centre = mean if branch == "cond" else mean / 2
        gain = time.alpha * std**2 / (time.alpha**2 * std**2 + time.sigma**2)
        return centre + gain * (x - time.alpha * centre)

    return exact


def flow_map(x: np.ndarray, s: Time, mean: float = 0.4, std: float = 0.25) -> np.ndarray:
    """Return the end of the probability-flow ODE that takes x from s to the clean end."""
    spread = np.sqrt((CLEAN.alpha**2 * std**2) / (s.alpha**2 * std**2 + s.sigma**2))
    return CLEAN.alpha * mean + spread * (x - s.alpha * mean)


def mixture(x: np.ndarray, time: Time, branch: str) -> np.ndarray:
    """E[x0 | x] of independent elements from two Gaussians; the unconditional branch knows less about which one."""
    means, stds = np.array([-0.7, 0.5]), np.array([0.15, 0.1])
    shares = np.array([0.35, 0.65] if branch == "cond" else [0.5, 0.5])
    variances = time.alpha**2 * stds**2 + time.sigma**2
    away = x[..., None].astype(np.float64) - time.alpha * means
    logits = np.log(shares) - away**2 / (2 * variances) - 0.5 * np.log(variances)
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    x0 = means + time.alpha * stds**2 / variances * away
    return (x0 * likely).sum(-1) / likely.sum(-1)


def facts(kind: str, prediction: Prediction) -> DenoiserFacts:
    return DenoiserFacts(ScheduleSpec(kind), prediction)


def blocks(seeds: range, size: int = 8) -> tuple[Block, ...]:
    return tuple(Block(seeds[i : i + size], X_SHAPE, {}) for i in range(0, len(seeds), size))


def set_targets(sampler: Analytic, plan: Plan, parts: tuple[Block, ...]) -> tuple[Block, ...]:
    return tuple(replace(part, target=part.sample(sampler, plan)) for part in parts)


def mean_psnr(sampler: Analytic, plan: Plan, parts: tuple[Block, ...]) -> float:
    return float(np.mean([psnr(part.sample(sampler, plan), part.target) for part in parts]))


def refinement(
    sampler: Analytic, plan: Plan, seeds: FitSeeds, kinds: tuple[Freedom, ...] = ("rows", "times")
) -> Refinement:
    """Return the refinement of these kinds of numbers that a fit runs, starting at a plan."""
    origin, rolled = extract_recurrence(plan, 3), FitSampler(sampler, sampler)
    free = free_numbers(origin, column_norms(sampler, origin, seeds.fit), kinds)
    nominal = NominalPsnr(rolled.measure_psnr(plan, seeds.fit), rolled.measure_psnr(plan, seeds.selection))
    measure = lambda numbers, parts: join_jacobians(list(rolled.measure_columns(numbers, free, parts)))  # noqa: E731
    return Refinement(rolled, origin, free, seeds, nominal, measure)
