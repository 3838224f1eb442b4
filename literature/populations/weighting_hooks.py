"""Hooks that weight the particles of a population, and a statistic of trajectories."""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.any_plan import check_compiled
from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND, Cfg
from fewstep.plans.plan import Plan
from fewstep.plans.transforms.start_checks import noise_levels
from fewstep.runtime.arrays import as_numbers
from fewstep.runtime.sampling.execute import Array, StepEvaluation

Floats = NDArray[np.float64]
Potential = Literal["difference", "max", "sum"]


@dataclass
class Steering:
    """Potentials of Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848, section 3.2).

    The final weights tilt the distribution of samples by exp(strength x reward). During sampling, a particle is
    weighted by the reward of its x0: by its increase since the previous step ("difference"), by its largest value so
    far ("max"), or by its sum so far ("sum"). At the last step, the potentials already applied to the particle and its
    ancestors are divided out, so that their product over the whole run is exp(strength x reward).

    reward: samples [P, *x_shape] -> rewards [P].
    plan: the compiled plan that `population` runs.
    at: the steps at which `population` resamples. The reward is only computed there and at the last step; None means
        all steps.
    """

    reward: Callable[[Array], Any]
    strength: float
    plan: Plan
    kind: Potential = "difference"
    at: Collection[int] | None = None
    _value: Floats = field(default_factory=lambda: np.zeros(0))  # the previous reward, or the maximum or sum so far
    _potentials: Floats = field(default_factory=lambda: np.zeros(0))  # sum of the log potentials so far

    def __post_init__(self) -> None:
        check_compiled(self.plan)
        if self.kind not in get_args(Potential):
            raise UserError(f"unknown kind of steering {self.kind!r}", f"give one of {', '.join(get_args(Potential))}")

    def __call__(self, state: StepEvaluation) -> Floats:
        last = len(self.plan.steps) - 1
        if state.index == 0:
            self._value = np.full(len(state.u), -np.inf if self.kind == "max" else 0.0)
            self._potentials = np.zeros(len(state.u))
        if self.at is not None and state.index not in (*self.at, last):
            return np.zeros(len(state.u))
        reward = self._reward_of(state)
        if self.kind == "difference":
            potential, self._value = reward - self._value, reward
        else:
            self._value = np.maximum(self._value, reward) if self.kind == "max" else self._value + reward
            potential = self._value
        potential = self.strength * potential
        if state.index == last:
            potential = self.strength * reward - self._potentials
        self._potentials = self._potentials + potential
        return potential

    def _reward_of(self, state: StepEvaluation) -> Floats:
        returned, samples = self.reward(state.x0), len(state.u)
        fix = f"return one number for each of the {samples} samples"
        reward = as_numbers(returned, f"the reward at step {state.index}", fix, np.float64)
        if reward.shape != (samples,):
            raise UserError(f"the reward at step {state.index} has the shape {list(reward.shape)}", fix)
        return reward

    def follow(self, ancestors: NDArray[np.intp]) -> None:
        """Let each particle continue the history of its ancestor."""
        self._value, self._potentials = self._value[ancestors], self._potentials[ancestors]


@dataclass(frozen=True)
class GuidanceCorrection:
    """The hook of `guidance_corrector` for one plan. `population` refuses it with a different plan."""

    plan: Plan
    weigh: Callable[[StepEvaluation], Floats]

    def __call__(self, state: StepEvaluation) -> Floats:
        return self.weigh(state)


def guidance_corrector(plan: Plan) -> GuidanceCorrection:
    """Return a hook that corrects guided steps, so that samples follow p_cond^w p_uncond^(1 - w), which guidance alone
    does not achieve.

    Feynman-Kac correctors (Skreta et al. 2025, arXiv 2503.02819, classifier-free guidance): d log weight = w (w - 1)
    |eps_cond - eps_uncond|^2 |d log rho|, along the reverse SDE that adds the full noise. The trapezoidal rule needs a
    quarter of the steps of a left Riemann sum.

    Args:
        plan: a plan with guidance `Cfg` and the solver ddpm or, with a smaller error, dpmpp_2m_sde. Plans of schema 1
            lack alpha and sigma of their steps, and are refused.
    """
    check_compiled(plan)
    if not isinstance(plan.guidance, Cfg):
        raise UserError(f"plan {plan.name!r} has no guidance of the form Cfg", "compile it with a guidance weight")
    if any(step.heads > 1 or step.shaping is not None for step in plan.steps):
        what = f"plan {plan.name!r} has shaping or several heads, which the corrector does not support"
        raise UserError(what, "compile it without them")
    rho = np.array([time.rho for time in noise_levels(plan)])
    with np.errstate(all="ignore"):
        between = -np.diff(np.log(rho)) / 2
    between[~np.isfinite(between)] = 0.5  # from pure noise, with one estimate of x0: the complete integral of 1 / rho^2
    after = np.append(between, 0.5)  # to the end, where the difference decreases in proportion to rho
    spans = after + np.append(0.0, between)

    def corrector(state: StepEvaluation) -> Floats:
        step, rows = state.step, len(state.before)
        if set(step.branches) != {COND, UNCOND} or np.isinf(rho[state.index]):
            return np.zeros(len(state.u))
        cond, uncond = (step.branches.index(branch) for branch in (COND, UNCOND))
        one = step.x0[rows + cond] + step.x0[rows + uncond]  # the weight of each branch in x0
        w = step.x0[rows + cond] / one
        gap = one * (state.outputs[cond] - state.outputs[uncond]).astype(np.float64) / rho[state.index]
        return np.asarray(w * (w - 1) * spans[state.index] * (gap**2).reshape(len(gap), -1).sum(1))

    return GuidanceCorrection(plan, corrector)


def trajectory_variance(states: Iterable[StepEvaluation], last: int) -> Floats:
    """Return the variance [B] of each sample's predicted x0 over the last steps of a run, averaged over its elements.

    Samples between the modes of the data change their prediction for longer than others (Aithal et al. 2024, arXiv
    2406.09358, equation 8), so the largest values indicate hallucinations.

    Args:
        last: number of final steps to use, 2 or more.
    """
    previews = np.stack([state.x0 for state in deque(states, maxlen=check_integer("last", last, 2))])
    return np.asarray(previews.var(axis=0, dtype=np.float64).reshape(previews.shape[1], -1).mean(axis=1))
