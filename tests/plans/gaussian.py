"""Gaussian data, where the exact denoiser and the exact probability-flow trajectory are closed forms."""

import math

import numpy as np

from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from tests.plans.execute_plan import denoiser, output, sample

MEAN, STD = 0.4, 0.25
LINEAR, COSINE, FLOW = ScheduleSpec("linear"), ScheduleSpec("cosine"), ScheduleSpec("flow")
FAMILIES: list[tuple[ScheduleSpec, Prediction]] = [
    (LINEAR, "epsilon"),
    (LINEAR, "sample"),
    (COSINE, "epsilon"),
    (COSINE, "v"),
    (FLOW, "sample"),
    (FLOW, "flow"),
]


def denoising(spec: ScheduleSpec, prediction: Prediction) -> DenoiserFacts:
    return DenoiserFacts(spec, prediction)


def exact_x0(x: np.ndarray, time: Time) -> np.ndarray:
    """E[x0 | x] for x0 ~ N(MEAN, STD^2)."""
    gain = time.alpha * STD**2 / (time.alpha**2 * STD**2 + time.sigma**2)
    return MEAN + gain * (x - time.alpha * MEAN)


def one_point(prediction: str, point: float = 0.7, y: float = 0.0):
    """The network of data that is one point, where noising leads to y; "both" has the residual and the noise."""

    def network(index, step, u):
        x, x0 = u - (1 - step.alpha) * y, np.full_like(u, point)
        time = Time(step.time, step.alpha, step.sigma)
        return [y - x0, output("epsilon", x, x0, time)] if prediction == "both" else [output(prediction, x, x0, time)]

    return network


def flow_map(x: np.ndarray, s: Time, t: Time) -> np.ndarray:
    """Return the end of the probability-flow ODE that takes x from s to t."""
    spread = math.sqrt((t.alpha**2 * STD**2 + t.sigma**2) / (s.alpha**2 * STD**2 + s.sigma**2))
    return t.alpha * MEAN + spread * (x - s.alpha * MEAN)


def run(plan: Plan, spec: ScheduleSpec, draws: list[np.ndarray], dtype=np.float64) -> np.ndarray:
    """Run a plan on the exact denoiser; `draws[k]` is draw k."""
    return sample(plan, denoiser(exact_x0, plan.prediction, spec), lambda number: draws[number], dtype)


def uniform_lambda(spec: ScheduleSpec, steps: int, first: float = 900, last: float = 20) -> list[Time]:
    """steps + 1 times equally spaced in lambda between two timesteps; none is clean, so every step is full order."""
    schedule = NoiseSchedule(spec)
    wanted = np.linspace(schedule.lam(first), schedule.lam(last), steps + 1)
    times = []
    for lam in wanted:
        low, high = last, first  # lambda falls with t
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if schedule.lam(middle) < lam else (middle, high)
        times.append(schedule.time((low + high) / 2))
    return times
