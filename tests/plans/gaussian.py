"""Gaussian data, where the exact denoiser and the exact probability-flow trajectory are closed forms."""

import math

import numpy as np

from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from tests.plans.execution import sample

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


def exact_output(prediction: Prediction, x: np.ndarray, time: Time) -> np.ndarray:
    """What a perfect network says at (x, time)."""
    x0 = exact_x0(x, time)
    eps = (x - time.alpha * x0) / time.sigma
    return {"epsilon": eps, "sample": x0, "v": time.alpha * eps - time.sigma * x0, "flow": eps - x0}[prediction]


def one_point(prediction: str, point: float = 0.7, y: float = 0.0):
    """The network of data that is one point, where noising reverts to y; "both" has the residual and the noise."""

    def network(index, step, u):
        eps, x0 = (u - (1 - step.alpha) * y - step.alpha * point) / step.sigma, np.full_like(u, point)
        v = step.alpha * eps - step.sigma * x0
        said = {"epsilon": [eps], "sample": [x0], "v": [v], "flow": [eps - x0], "both": [y - x0, eps]}
        return said[prediction]

    return network


def flow_map(x: np.ndarray, s: Time, t: Time) -> np.ndarray:
    """Where the probability-flow ODE takes x from s to t."""
    spread = math.sqrt((t.alpha**2 * STD**2 + t.sigma**2) / (s.alpha**2 * STD**2 + s.sigma**2))
    return t.alpha * MEAN + spread * (x - s.alpha * MEAN)


def run(plan: Plan, spec: ScheduleSpec, draws: list[np.ndarray], dtype=np.float64) -> np.ndarray:
    """Run a plan on the exact denoiser; `draws[k]` is draw k."""
    schedule = NoiseSchedule(spec)

    def network(index, step, u):
        output = exact_output(plan.prediction, np.asarray(u, np.float64), schedule.time(step.time))
        return [output.astype(dtype) for _ in step.branches]

    return sample(plan, network, lambda number: draws[number], dtype)


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
