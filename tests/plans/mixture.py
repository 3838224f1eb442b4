"""A mixture of Gaussians on the line: the exact denoiser in closed form, and the exact end of every trajectory.

The probability-flow ODE keeps the marginals, and in one dimension a flow that keeps them keeps quantiles: x_s goes
to the x_t with the same probability below it. No reference integrator is needed.
"""

import math
from dataclasses import dataclass

import numpy as np

from fewstep.plans.compile import trace_plan
from fewstep.plans.names.plan_name import Solver
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import Time
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from tests.plans.execute_plan import denoiser, sample


@dataclass(frozen=True)
class Mixture:
    """A mixture. The elements of arrays are independent, each with this distribution."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def _at(self, time: Time) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances of the components of x_t."""
        return time.alpha * np.array(self.means), time.alpha**2 * np.array(self.stds) ** 2 + time.sigma**2

    def exact_x0(self, x: np.ndarray, time: Time) -> np.ndarray:
        """E[x0 | x]."""
        means, variances = self._at(time)
        away = x[..., None] - means
        logits = np.log(self.weights) - away**2 / (2 * variances) - 0.5 * np.log(variances)
        likely = np.exp(logits - logits.max(-1, keepdims=True))
        x0 = np.array(self.means) + time.alpha * np.array(self.stds) ** 2 / variances * away
        return (x0 * likely).sum(-1) / likely.sum(-1)

    def exact_eps(self, x: np.ndarray, time: Time) -> np.ndarray:
        """E[eps | x]."""
        return (x - time.alpha * self.exact_x0(x, time)) / time.sigma

    def density(self, x: np.ndarray) -> np.ndarray:
        """p(x) of x [N], up to a factor."""
        away = (x[:, None] - np.array(self.means)) / np.array(self.stds)
        return (np.array(self.weights) * np.exp(-0.5 * away**2) / np.array(self.stds)).sum(1)

    def mean_of_tilt(self, strength: float) -> float:
        """E[x e^(strength x)] / E[e^(strength x)]."""
        mean, variance = np.array(self.means), np.square(self.stds)
        share = np.array(self.weights) * np.exp(strength * mean + strength**2 * variance / 2)
        return float(((mean + strength * variance) * share).sum() / share.sum())

    def below(self, x: np.ndarray, time: Time) -> np.ndarray:
        """P(x_t < x)."""
        means, variances = self._at(time)
        z = (x[:, None] - means) / np.sqrt(2 * variances)
        return np.array([[0.5 * math.erfc(-each) for each in line] for line in z]) @ np.array(self.weights)

    def flow_map(self, x: np.ndarray, s: Time, t: Time) -> np.ndarray:
        """Return the end of the probability-flow ODE that takes x from s to t: equal quantiles, found by bisection."""
        wanted = self.below(x, s)
        low, high = np.full_like(x, -8.0), np.full_like(x, 8.0)
        for _ in range(56):  # to 16 / 2^56
            middle = (low + high) / 2
            less = self.below(middle, t) < wanted
            low, high = np.where(less, middle, low), np.where(less, high, middle)
        return (low + high) / 2

    def run(self, plan: Plan, spec: ScheduleSpec, x: np.ndarray) -> np.ndarray:
        """Run a deterministic plan on the exact denoiser, from the draw x, in float64."""
        return sample(plan, denoiser(self.exact_x0, plan.prediction, spec), lambda number: x, np.float64)


def rms(difference: np.ndarray) -> float:
    return math.sqrt(np.mean(difference**2))


def compile_solver(solver: Solver, times: list[Time], spec: ScheduleSpec, prediction: Prediction) -> Plan:
    return trace_plan("test", solver, times, DenoiserFacts(spec, prediction))


WIDE = Mixture((0.35, 0.65), (-0.7, 0.5), (0.4, 0.3))
