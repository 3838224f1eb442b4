"""Time shift (Li, Qu, Yao, Sun, Moens 2024, arXiv 2305.15583): pass the network the time that fits the variance of x.

While it runs, the published sampler compares the variance of each sample with sigma^2 of nearby timesteps. This depends
on the data, so it is not a static plan. But the variance over thousands of elements is nearly the same for all samples.
Its mean, measured once on rollouts of the plan, determines the shift of every step in advance.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.paths import RESTORING
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule


def shift_times(plan: Plan, times: Sequence[float]) -> Plan:
    """Return the plan with these times for the network, one for each evaluation. All coefficients are unchanged."""
    if len(times) != len(plan.steps):
        raise UserError(f"got {len(times)} network times for {len(plan.steps)} evaluations", "give one time for each")
    steps = (msgspec.structs.replace(step, time=float(time)) for step, time in zip(plan.steps, times, strict=True))
    return msgspec.structs.replace(plan, steps=tuple(steps))


def estimate_shift(
    plan: Plan, schedule: NoiseSchedule, variances: Sequence[float], window: float = 40.0, cutoff: float = 200.0
) -> tuple[float, ...]:
    """Return times for `shift_times`. For each evaluation this is the integer timestep, at most half a window away,
    whose sigma^2 is closest to the variance of x. The first evaluation keeps its time. Evaluations at or
    below the cutoff, where x contains more data than noise, keep theirs too.

    Args:
        variances: variance of the network's input at each evaluation, over the elements of a sample, averaged over
            rollouts. It is unbiased in the authors' code, as torch computes it: sigma^2 of neighbouring timesteps near
            pure noise differ by less than one part in a thousand.
        window, cutoff: in timesteps.
    """
    last = schedule.timesteps
    if last is None or schedule.spec.kind in RESTORING:
        raise UserError(
            f"a time shift needs a generative schedule with discrete timesteps, unlike {schedule.name}",
            "use one with a table, such as linear",
        )
    if len(variances) != len(plan.steps):
        raise UserError(f"got {len(variances)} variances for {len(plan.steps)} evaluations", "give one for each")
    shifted = [plan.steps[0].time]
    for step, variance in zip(plan.steps[1:], variances[1:], strict=True):
        if step.time <= cutoff:
            shifted.append(step.time)
            continue
        low, high = max(step.time - window / 2, 0.0), min(step.time + window / 2, last - 1.0)
        near = np.arange(np.ceil(low), np.floor(high) + 1)
        shifted.append(float(min(near, key=lambda t: abs(variance - schedule.sigma(float(t)) ** 2))))
    return tuple(shifted)
